/**
 * Where the two plugins meet: what the server-settings plugin made, and what happens to its sockets.
 *
 * Both are in one bundle, so one instance of this module is what they share. It imports nothing of
 * JupyterLab's at run time: the settings plugin must not fail for the sake of this.
 */

import type { ServerConnection } from '@jupyterlab/services';
import type { ConnectionEvent, Connections } from 'jupyter-token-ws';

/** What the user interface knows of the connections. */
export interface Bus {
  /** The page's own; `null` where it goes on as stock does: nothing is ever told then. */
  readonly connections: Connections | null;
  /** For plain requests to the server; `null` where the other plugin was not activated. */
  readonly serverSettings: ServerConnection.ISettings | null;
  /**
   * Be told what happens. Which sockets are open, what is unsettled (parked, still waiting, unexplained) and
   * whether output was cut is told at once, before this returns.
   *
   * @returns ends the subscription
   */
  subscribe(listener: (event: ConnectionEvent) => void): () => void;
  /** Another token for this page, for plain requests and sockets alike, from now on. */
  setToken(token: string): void;
  /**
   * Whether a token may go into the URL for a server without the extension. Remembered by the browser for
   * this server, because sockets open before the settings are loaded.
   */
  allowTokenInUrl: boolean;
}

/** How many paths are remembered for who listens later: nobody comes back to the oldest of so many. */
const MOST_UNSETTLED = 500;

/** The whole of it, for the plugin that makes the connections. */
export class Switchboard implements Bus {
  private readonly _listeners = new Set<(event: ConnectionEvent) => void>();
  /** The last word on each path that is not in order, and when it was said, in milliseconds. */
  private readonly _unsettled = new Map<string, { readonly event: ConnectionEvent; readonly at: number }>();
  /** That output was cut, once it was: nobody says so again. */
  private _cut: ConnectionEvent | null = null;
  /** How many sockets to each path are open. */
  private readonly _open = new Map<string, number>();
  private _connections: Connections | null = null;
  private _serverSettings: ServerConnection.ISettings | null = null;
  private _allowTokenInUrl: boolean | null = null;

  get connections(): Connections | null {
    return this._connections;
  }

  get serverSettings(): ServerConnection.ISettings | null {
    return this._serverSettings;
  }

  /** Say what there is; `connections` only once it is used. */
  provide(serverSettings: ServerConnection.ISettings, connections: Connections | null): void {
    this._serverSettings = serverSettings;
    this._connections = connections;
    this._allowTokenInUrl = null;
    this._limit();
  }

  subscribe(listener: (event: ConnectionEvent) => void): () => void {
    for (const [path, count] of [...this._open]) {
      for (let one = 0; one < count; one += 1) {
        tell(listener, { kind: 'open', path });
      }
    }
    if (this._cut) {
      tell(listener, this._cut);
    }
    for (const { event, at } of [...this._unsettled.values()]) {
      if (event.kind !== 'waiting') {
        tell(listener, event);
        continue;
      }
      const seconds = event.seconds - (performance.now() - at) / 1000;
      if (seconds > 0) {
        tell(listener, { ...event, seconds });
      }
    }
    // A function of its own: the same listener may subscribe twice.
    const own = (event: ConnectionEvent): void => listener(event);
    this._listeners.add(own);
    return () => void this._listeners.delete(own);
  }

  /** For `Connections`' `onEvent`. */
  readonly publish = (event: ConnectionEvent): void => {
    if (event.kind === 'parked' || event.kind === 'waiting' || event.kind === 'unexplained') {
      this._unsettled.delete(event.path); // to be the newest
      this._unsettled.set(event.path, { event, at: performance.now() });
      const [oldest] = this._unsettled.keys();
      if (oldest !== undefined && this._unsettled.size > MOST_UNSETTLED) {
        this._unsettled.delete(oldest);
      }
    } else if (['open', 'released', 'abandoned'].includes(event.kind)) {
      this._unsettled.delete(event.path);
    }
    if (event.kind === 'refused' && event.closed.slug === 'backlog_full') {
      this._cut = event;
    }
    if (event.kind === 'open' || event.kind === 'closed') {
      this._count(event.path, event.kind === 'open' ? 1 : -1);
    }
    for (const listener of [...this._listeners]) {
      tell(listener, event);
    }
  };

  private _count(path: string, more: number): void {
    const count = (this._open.get(path) ?? 0) + more;
    if (count > 0) {
      this._open.set(path, count);
    } else {
      this._open.delete(path);
    }
  }

  setToken(token: string): void {
    if (this._serverSettings) {
      // In place: every part of the page holds this very object.
      (this._serverSettings as { token: string }).token = token;
    }
  }

  get allowTokenInUrl(): boolean {
    this._allowTokenInUrl ??= recall(this._serverSettings?.baseUrl ?? '');
    return this._allowTokenInUrl;
  }

  set allowTokenInUrl(allowed: boolean) {
    this._allowTokenInUrl = allowed;
    this._limit();
    remember(this._serverSettings?.baseUrl ?? '', allowed);
  }

  /** Nowhere does a token go into an address where stock would not have put it there. */
  private _limit(): void {
    if (this._connections) {
      this._connections.allowTokenInUrl = this.allowTokenInUrl && this._serverSettings?.appendToken === true;
    }
  }
}

/** What goes wrong in one listener must not keep the others from hearing it, nor reach the sockets. */
function tell(listener: (event: ConnectionEvent) => void, event: ConnectionEvent): void {
  try {
    listener(event);
  } catch (error) {
    console.error(error);
  }
}

const FORBIDDEN = 'no';

/** Several servers may share an origin, and with it the browser's memory. */
function key(baseUrl: string): string {
  return `jupyter_token_ws:token-in-url:${baseUrl}`;
}

/** Whether it was allowed when this was last said in this browser; it is where nothing was said. */
export function recall(baseUrl: string): boolean {
  try {
    return localStorage.getItem(key(baseUrl)) !== FORBIDDEN;
  } catch {
    return true; // a browser may keep its storage shut
  }
}

function remember(baseUrl: string, allowed: boolean): void {
  try {
    if (allowed) {
      localStorage.removeItem(key(baseUrl));
    } else {
      localStorage.setItem(key(baseUrl), FORBIDDEN);
    }
  } catch {
    // Then the settings say it anew at each start.
  }
}

/** The one of this page. */
export const bus = new Switchboard();
