/**
 * What all sockets of a page share: the server they belong to, its capabilities, the memory of each path,
 * and who is told what happens.
 */

import { API_VERSIONS } from './constants';
import { PathState } from './policy';
import type { Closed } from './reasons';
import { isDeclared, pathBelow, STOCK_SOCKETS, type Capabilities } from './trust';

/** What can be told to a user interface. `path` is below the server's base. */
export type ConnectionEvent =
  | { readonly kind: 'open'; readonly path: string }
  | { readonly kind: 'refused'; readonly path: string; readonly closed: Closed }
  | { readonly kind: 'parked'; readonly path: string; readonly closed: Closed }
  | { readonly kind: 'waiting'; readonly path: string; readonly closed: Closed; readonly seconds: number }
  | { readonly kind: 'released'; readonly path: string }
  | { readonly kind: 'unexplained'; readonly path: string; readonly cause: Cause };

/** Why a socket may have failed without a reason, by what the preflight saw. */
export type Cause =
  /** Nothing answers. */
  | 'server_down'
  /** The server answers, websockets do not get through. */
  | 'websockets_blocked'
  /** The server has no capabilities, so nothing more can be said. */
  | 'unknown';

export interface ConnectionOptions {
  /** The server's base address, `https://host/user/ann/`. */
  readonly baseUrl: string;
  /** The base of its websockets; from `baseUrl` where absent. */
  readonly wsUrl?: string;
  /** The token, asked anew for each attempt; empty for none. */
  readonly token?: () => string;
  /** Whether the browser sends a login cookie to `wsUrl` by itself, so that no token is needed at first. */
  readonly cookies?: boolean;
  /** The capabilities document where it is known already, for instance from the page. */
  readonly capabilities?: Capabilities;
  /** Whether a token may go into the URL for servers that have no capabilities. */
  readonly allowTokenInUrl?: boolean;
  /** Told of what happens. */
  readonly onEvent?: (event: ConnectionEvent) => void;
  /** The browser's own, for tests and other places. */
  readonly WebSocket?: typeof WebSocket;
  readonly fetch?: typeof fetch;
}

const CAPABILITIES_PATH = 'api/token-ws/capabilities';
/** Milliseconds that a preflight may take. */
const PREFLIGHT_TIMEOUT = 10_000;

/** One server, as the sockets of a page see it. */
export class Connections {
  readonly baseUrl: string;
  readonly wsUrl: string;
  readonly cookies: boolean;
  readonly allowTokenInUrl: boolean;
  readonly native: typeof WebSocket;
  private readonly _token: () => string;
  private readonly _fetch: typeof fetch;
  private readonly _onEvent: (event: ConnectionEvent) => void;
  private readonly _paths = new Map<string, PathState>();
  private readonly _waiting = new Map<string, Set<() => void>>();
  private _capabilities: Promise<Capabilities | null> | null;

  constructor(options: ConnectionOptions) {
    this.baseUrl = withSlash(options.baseUrl);
    this.wsUrl = withSlash(options.wsUrl ?? this.baseUrl.replace(/^http/i, 'ws'));
    this.cookies = options.cookies ?? false;
    this.allowTokenInUrl = options.allowTokenInUrl ?? true;
    this.native = options.WebSocket ?? WebSocket;
    this._token = options.token ?? ((): string => '');
    this._fetch = options.fetch ?? ((...args): Promise<Response> => fetch(...args));
    this._onEvent = options.onEvent ?? ((): void => undefined);
    this._capabilities = options.capabilities ? Promise.resolve(options.capabilities) : null;
  }

  /** The token as it is now; empty for none. */
  get token(): string {
    return this._token();
  }

  /**
   * The capabilities document, `null` where the server has none (404). Asked once; an error is no answer and
   * is asked again.
   *
   * @throws Error where nothing answers.
   */
  capabilities(): Promise<Capabilities | null> {
    if (!this._capabilities) {
      this._capabilities = this._preflight();
      this._capabilities.catch(() => {
        this._capabilities = null;
      });
    }
    return this._capabilities;
  }

  /**
   * The path of a socket below the base where tokens and reasons have a meaning, `null` for a foreign address
   * and for sockets that the server does not declare (proxied applications).
   */
  async ownPath(address: string): Promise<string | null> {
    const path = pathBelow(this.wsUrl, address);
    if (path === null) {
      return null;
    }
    const capabilities = await this.capabilities().catch(() => null);
    return isDeclared(path, capabilities?.sockets ?? STOCK_SOCKETS) ? path : null;
  }

  /** The memory of one path. */
  state(path: string): PathState {
    let state = this._paths.get(path);
    if (!state) {
      state = new PathState();
      this._paths.set(path, state);
    }
    return state;
  }

  /** Every parked path, with the reason. */
  parked(): ReadonlyMap<string, Closed> {
    const found = new Map<string, Closed>();
    for (const [path, state] of this._paths) {
      if (state.parked) {
        found.set(path, state.parked);
      }
    }
    return found;
  }

  /** The user acted: sockets to this path, or to all parked paths, may connect again. */
  release(path?: string): void {
    for (const known of path === undefined ? [...this.parked().keys()] : [path]) {
      this.state(known).released();
      this.emit({ kind: 'released', path: known });
      const waiting = this._waiting.get(known) ?? new Set();
      this._waiting.delete(known);
      waiting.forEach(go => go());
    }
  }

  /**
   * Resolves when a socket to `path` may connect. `signal` ends the wait without an answer being needed any
   * more.
   */
  async mayConnect(path: string, signal: AbortSignal): Promise<void> {
    const state = this.state(path);
    while (!signal.aborted && (state.parked || state.notBefore > now())) {
      await new Promise<void>(resolve => {
        const timer = state.parked ? undefined : setTimeout(resolve, (state.notBefore - now()) * 1000);
        const waiting = this._waiting.get(path) ?? new Set();
        this._waiting.set(path, waiting);
        const go = (): void => {
          clearTimeout(timer);
          resolve();
        };
        waiting.add(go);
        signal.addEventListener('abort', go, { once: true });
      });
    }
  }

  /** A socket failed without a reason before it opened: find out what can be said. */
  async explain(path: string): Promise<void> {
    let cause: Cause;
    try {
      cause = (await this._preflight()) ? 'websockets_blocked' : 'unknown';
    } catch {
      cause = 'server_down';
    }
    this.emit({ kind: 'unexplained', path, cause });
  }

  /** Tell who listens. */
  emit(event: ConnectionEvent): void {
    this._onEvent(event);
  }

  private async _preflight(): Promise<Capabilities | null> {
    const response = await this._fetch(this.baseUrl + CAPABILITIES_PATH, {
      cache: 'no-store',
      credentials: 'omit',
      headers: { 'Api-Version': API_VERSIONS[0] },
      redirect: 'error',
      signal: AbortSignal.timeout(PREFLIGHT_TIMEOUT)
    });
    if (!response.ok) {
      return null;
    }
    const found: unknown = await response.json().catch(() => null);
    return isCapabilities(found) ? found : null;
  }
}

/** Seconds. */
export function now(): number {
  return performance.now() / 1000;
}

function withSlash(address: string): string {
  return address.endsWith('/') ? address : `${address}/`;
}

function isCapabilities(found: unknown): found is Capabilities {
  return typeof found === 'object' && found !== null && Array.isArray((found as Capabilities).api_versions);
}
