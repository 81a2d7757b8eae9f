/**
 * What all sockets of a page share: the server they belong to, its capabilities, the memory of each path,
 * and who is told what happens.
 */

import type { Carrier, OpenCarrier } from './carrier.js';
import { API_VERSIONS } from './constants.js';
import { HEALTHY_AFTER, PathState, type Credential } from './policy.js';
import type { Closed } from './reasons.js';
import { addresses, isDeclared, pathBelow, STOCK_SOCKETS, withSlash, type Capabilities } from './trust.js';

/** What can be told to a user interface. `path` is below the server's base. */
export type ConnectionEvent =
  | { readonly kind: 'open'; readonly path: string }
  /** A socket that had opened has ended, whatever for; what was said about that came before. */
  | { readonly kind: 'closed'; readonly path: string }
  | { readonly kind: 'refused'; readonly path: string; readonly closed: Closed }
  | { readonly kind: 'parked'; readonly path: string; readonly closed: Closed }
  | { readonly kind: 'waiting'; readonly path: string; readonly closed: Closed; readonly seconds: number }
  | { readonly kind: 'released'; readonly path: string }
  | { readonly kind: 'unexplained'; readonly path: string; readonly cause: Cause }
  /** The application closed a socket that had not opened: no socket to this path is left waiting. */
  | { readonly kind: 'abandoned'; readonly path: string };

/** Why a socket may have failed without a reason, by what could be found out. */
export type Cause =
  /** Nothing answers, or only a proxy does that has no server behind it. */
  | 'server_down'
  /** The server answers, and would tell its reasons: websockets do not get through to it. */
  | 'websockets_blocked'
  /** The server refuses the credential for plain requests too. */
  | 'credential_refused'
  /** The browser did not even try, for instance `ws` from an `https` page. */
  | 'not_attempted'
  /** Nothing more can be said: the server tells no reasons, or this page may not read what it answers. */
  | 'unknown';

export interface ConnectionOptions {
  /** The server's base address, `https://host/user/ann/`. */
  readonly baseUrl: string;
  /** The base of its websockets; from `baseUrl` and the capabilities where absent. */
  readonly wsUrl?: string;
  /** The token as it is now, asked anew for each attempt, so that it may change; empty for none. */
  readonly token?: () => string;
  /** Whether the browser sends a login cookie to `wsUrl` by itself, so that no token is needed at first. */
  readonly cookies?: boolean;
  /** The capabilities document where it is known already, for instance from the page. */
  readonly capabilities?: Capabilities;
  /** Whether a token may go into the URL for servers that have no capabilities. */
  readonly allowTokenInUrl?: boolean;
  /**
   * Whether a socket that has not opened yet stays CONNECTING where trying again later may help, and does
   * that by itself: for applications that draw conclusions from a socket which fails before it opened.
   */
  readonly patient?: boolean;
  /** Told of what happens. */
  readonly onEvent?: (event: ConnectionEvent) => void;
  /** Opens sockets of this server, instead of `WebSocket`. */
  readonly carrier?: OpenCarrier;
  /** The browser's own, for tests and other places. */
  readonly WebSocket?: new (address: string, protocols: string[]) => Carrier;
  readonly fetch?: typeof fetch;
}

const CAPABILITIES_PATH = 'api/token-ws/capabilities';
/** Answers everybody, on every server, with the same CORS headers as the capabilities have. */
const VERSION_PATH = 'api';
/** Answers anybody who is signed in, and nobody else. */
const WHO_AM_I_PATH = 'api/me';
/** Milliseconds that a plain request may take. */
const PREFLIGHT_TIMEOUT = 10_000;
/**
 * Seconds between two questions whether a server is back: the first, the longest for as long as a server
 * usually takes to start, and the longest.
 */
const REVIVAL = { first: 1, soon: 2, usual: 30, longest: 15 } as const;
/** Seconds that an explanation holds: one for all sockets of a page that fail together. */
const EXPLAINED_FOR = 5;
/** Seconds for which websockets that got through once do not count as blocked. */
const THROUGH_FOR = 15;
/** How many paths are remembered that no socket waits for. */
const MOST_PATHS = 500;

/** One server, as the sockets of a page see it. */
export class Connections {
  readonly baseUrl: string;
  readonly wsUrl: string;
  readonly cookies: boolean;
  /** May change at any time; holds for attempts from then on. */
  allowTokenInUrl: boolean;
  readonly patient: boolean;
  private readonly _token: () => string;
  private readonly _native: OpenCarrier;
  private readonly _carrier: OpenCarrier;
  private readonly _fetch: typeof fetch;
  private readonly _onEvent: (event: ConnectionEvent) => void;
  private readonly _paths = new Map<string, PathState>();
  private readonly _waiting = new Map<string, Set<() => void>>();
  /** How many sockets to each path have not opened yet. */
  private readonly _connecting = new Map<string, number>();
  /** How many sockets of this server are open, and when websockets were last seen to get through. */
  private _open = 0;
  private _throughAt = -Infinity;
  private _unblockedAt = -Infinity;
  /** A socket was lost, and none has opened since: who knows whether the credentials are still good. */
  private _doubt = false;
  /** By path: resolves when the socket that finds out how things are knows. */
  private readonly _turns = new Map<string, Promise<void>>();
  /** How many sockets wait for a server that does not answer, and what asks whether it does again. */
  private _hopeful = 0;
  private _revival: Promise<void> | null = null;
  private _hurry: () => void = () => undefined;
  private readonly _causes = new Map<Credential, { readonly cause: Promise<Cause>; until: number }>();
  private _asked: Promise<Capabilities | null> | null;
  private _warned = false;

  constructor(options: ConnectionOptions) {
    this.baseUrl = withSlash(options.baseUrl);
    this.wsUrl = withSlash(options.wsUrl ?? addresses(this.baseUrl, options.capabilities ?? null).wsUrl);
    this.cookies = options.cookies ?? false;
    this.allowTokenInUrl = options.allowTokenInUrl ?? true;
    this.patient = options.patient ?? false;
    // Taken now: the page may put our class in the place of the browser's afterwards.
    const Native = options.WebSocket ?? WebSocket;
    this._native = (address, protocols): Carrier => new Native(address, protocols);
    this._carrier = options.carrier ?? this._native;
    this._token = options.token ?? ((): string => '');
    this._fetch = options.fetch ?? ((...args): Promise<Response> => fetch(...args));
    this._onEvent = options.onEvent ?? ((): void => undefined);
    this._asked = options.capabilities ? Promise.resolve(options.capabilities) : null;
  }

  /** The token as it is now; empty for none, and where the page's function for it fails. */
  get token(): string {
    try {
      return this._token();
    } catch (error) {
      console.error(error);
      return '';
    }
  }

  /**
   * The capabilities document, `null` where the server has none (404, from a Jupyter server). Asked once; an error is no answer and
   * is asked again.
   *
   * @throws Error where nothing answers, or something else than a server.
   */
  capabilities(): Promise<Capabilities | null> {
    this._asked ??= this._ask().catch((error: unknown) => {
      this._asked = null;
      throw error;
    });
    return this._asked;
  }

  /** The path of an address below the websockets' base, `null` for a foreign one. */
  below(address: string): string | null {
    return pathBelow(this.wsUrl, address);
  }

  /**
   * Whether tokens and reasons have a meaning on a path: the server declares it. Proxied applications are
   * not declared.
   */
  declares(path: string, capabilities: Capabilities | null | undefined): boolean {
    return isDeclared(path, capabilities?.sockets ?? STOCK_SOCKETS);
  }

  /**
   * Begin a handshake.
   *
   * @param own whether it is one of this server's declared sockets
   * @throws what the browser throws, with the address in its message
   */
  open(address: string, protocols: readonly string[], own: boolean): Carrier {
    return (own ? this._carrier : this._native)(address, [...protocols]);
  }

  /** The memory of one path. */
  state(path: string): PathState {
    let state = this._paths.get(path);
    if (!state) {
      this._forget();
      state = new PathState();
      this._paths.set(path, state);
    }
    return state;
  }

  /** A socket to `path` was made. */
  joined(path: string): void {
    this._connecting.set(path, (this._connecting.get(path) ?? 0) + 1);
  }

  /**
   * A socket to `path` opened, or never will.
   *
   * @param abandoned whether the application gave it up
   */
  parted(path: string, abandoned: boolean): void {
    const others = (this._connecting.get(path) ?? 0) - 1;
    if (others > 0) {
      this._connecting.set(path, others);
      return;
    }
    this._connecting.delete(path);
    if (abandoned) {
      this._paths.get(path)?.abandoned(now(), Math.random());
      this.emit({ kind: 'abandoned', path });
    }
  }

  /** A socket to `path` opened. */
  opened(path: string): void {
    this._doubt = false;
    this.emit({ kind: 'open', path });
  }

  /**
   * A socket to `path` ended.
   *
   * @param age seconds since it opened, 0 if it never did
   * @param left whether the application ended it
   */
  ended(path: string, age: number, left: boolean): void {
    this._doubt ||= !left;
    const state = this._paths.get(path);
    if (age >= HEALTHY_AFTER) {
      state?.healthy();
    }
    if (state?.idle) {
      this._paths.delete(path);
    }
  }

  /** Whether websockets get through: one is open, or was answered a moment ago. */
  get through(): boolean {
    return this._open > 0 || now() - this._throughAt < THROUGH_FOR;
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

  /** The user acted: sockets to this path, or to all parked paths, may connect again at once. */
  release(path?: string): void {
    this._causes.clear();
    this._hurry();
    for (const known of path === undefined ? [...this.parked().keys()] : [path]) {
      this._paths.get(known)?.released();
      this.emit({ kind: 'released', path: known });
      this._wake(known);
    }
  }

  /**
   * Resolves when a socket to `path` may connect. `signal` ends the wait without an answer being needed any
   * more.
   */
  async mayConnect(path: string, signal: AbortSignal): Promise<void> {
    for (;;) {
      const state = this._paths.get(path);
      if (signal.aborted || !state || (!state.parked && state.notBefore <= now())) {
        return;
      }
      await this._wait(path, state.parked ? null : state.notBefore - now(), signal);
    }
  }

  /**
   * Like `mayConnect`, and after a socket was lost also when those before it on this path know how things
   * are: where credentials are refused, two sockets need not both find that out.
   *
   * @returns to be called when this one knows, or is gone
   */
  async turn(path: string, signal: AbortSignal): Promise<() => void> {
    for (;;) {
      await this.mayConnect(path, signal);
      const before = this._turns.get(path);
      if (signal.aborted || !(before ?? this._doubt)) {
        return () => undefined;
      }
      if (!before) {
        return this._take(path);
      }
      await unlessAborted(before, signal);
    }
  }

  /**
   * A socket failed without a reason before it opened: find out what can be said, unless it was left.
   *
   * @param token the one that it showed
   * @returns what to go by: also that websockets seem blocked, where it is not said because others get through
   */
  async explain(path: string, credential: Credential, token: string, signal?: AbortSignal): Promise<Cause> {
    const cause = await this._cause(credential);
    if (signal?.aborted) {
      return cause; // nobody waits for it any more
    }
    if (cause === 'credential_refused') {
      this.state(path).distrust(credential, token);
    }
    this.emit({
      kind: 'unexplained',
      path,
      cause: cause === 'websockets_blocked' && this.through ? 'unknown' : cause
    });
    return cause;
  }

  /** Resolves when something answers again where nothing did: one asks for all sockets. */
  async revived(signal: AbortSignal): Promise<void> {
    this._hopeful += 1;
    this._revival ??= this._awaitRevival().finally(() => {
      this._revival = null;
    });
    await unlessAborted(this._revival, signal);
    this._hopeful -= 1;
  }

  /** Tell who listens. What goes wrong there must not reach the sockets. */
  emit(event: ConnectionEvent): void {
    if (event.kind === 'open' || event.kind === 'refused') {
      this._throughAt = now();
      this._unblock();
    }
    this._open += event.kind === 'open' ? 1 : event.kind === 'closed' ? -1 : 0;
    try {
      this._onEvent(event);
    } catch (error) {
      console.error(error);
    }
  }

  /** A token goes into a URL: say so, once (C2.9). */
  warnOfUrl(): void {
    if (!this._warned) {
      this._warned = true;
      console.warn(`${this.baseUrl} has no jupyter_token_ws: the token goes into websocket URLs.`);
    }
  }

  /**
   * A websocket got through: who waits because they seemed blocked need not wait any longer. Not with each of
   * them, for one that comes and goes must not drive the others.
   */
  private _unblock(): void {
    if (now() - this._unblockedAt < THROUGH_FOR) {
      return;
    }
    for (const [path, state] of this._paths) {
      if (state.unblocked()) {
        this._unblockedAt = now();
        this._wake(path);
      }
    }
  }

  private _wake(path: string): void {
    for (const go of [...(this._waiting.get(path) ?? [])]) {
      go();
    }
  }

  /** Wait for `release`, for `signal`, or for so many seconds; leaves nothing behind. */
  private _wait(path: string, seconds: number | null, signal: AbortSignal): Promise<void> {
    return new Promise(resolve => {
      const waiting = this._waiting.get(path) ?? new Set();
      this._waiting.set(path, waiting);
      let timer: ReturnType<typeof setTimeout> | undefined;
      const go = (): void => {
        clearTimeout(timer);
        signal.removeEventListener('abort', go);
        waiting.delete(go);
        if (waiting.size === 0) {
          this._waiting.delete(path);
        }
        resolve();
      };
      waiting.add(go);
      signal.addEventListener('abort', go);
      if (seconds !== null) {
        timer = setTimeout(go, seconds * 1000);
      }
    });
  }

  /** Names of kernels do not come back: what was long ago, or is too much, goes. */
  private _forget(): void {
    const unused = [...this._paths].filter(([path]) => !this._connecting.has(path));
    const stale = unused.filter(([, state]) => state.stale(now()));
    const tooMany = unused.slice(0, Math.max(0, this._paths.size - MOST_PATHS + 1));
    for (const [path] of [...stale, ...tooMany]) {
      this._paths.delete(path);
    }
  }

  private _take(path: string): () => void {
    let done = (): void => undefined;
    const turn = new Promise<void>(resolve => {
      done = resolve;
    });
    this._turns.set(path, turn);
    return () => {
      if (this._turns.get(path) === turn) {
        this._turns.delete(path);
      }
      done();
    };
  }

  private async _awaitRevival(): Promise<void> {
    const begun = now();
    for (let wait: number = REVIVAL.first; ; wait *= 2) {
      wait = Math.min(wait, now() - begun < REVIVAL.usual ? REVIVAL.soon : REVIVAL.longest);
      // Not all pages at the same moment, and at once where the user wants it so.
      await new Promise<void>(resolve => {
        const timer = setTimeout(resolve, wait * 1000 * (0.5 + Math.random() / 2));
        this._hurry = (): void => {
          clearTimeout(timer);
          resolve();
        };
      });
      if (this._hopeful === 0 || (await this._found()) !== undefined || isOfServer(await this._blind())) {
        break;
      }
    }
    this._hurry = (): void => undefined;
    this._causes.clear(); // that nothing answered does not hold any more
  }

  private _cause(credential: Credential): Promise<Cause> {
    const known = this._causes.get(credential);
    if (known && now() < known.until) {
      return known.cause;
    }
    const entry = { cause: this._findCause(credential), until: Infinity };
    this._causes.set(credential, entry);
    void entry.cause.then(() => {
      entry.until = now() + EXPLAINED_FOR;
    });
    return entry.cause;
  }

  private async _findCause(credential: Credential): Promise<Cause> {
    const found = await this._found();
    if (found === undefined) {
      const answer = await this._blind();
      if (answer?.type === 'opaque' && isHome(this.baseUrl)) {
        return 'credential_refused'; // sent to another origin: a login that stands before the server
      }
      return isOfServer(answer) ? 'unknown' : 'server_down';
    }
    const admitted = await this._admits(credential);
    if (admitted === false) {
      return 'credential_refused';
    }
    return admitted && found?.reasons ? 'websockets_blocked' : 'unknown';
  }

  private async _ask(): Promise<Capabilities | null> {
    try {
      return await this._preflight('default');
    } catch (error) {
      if (await this._hidesThem()) {
        return null;
      }
      throw error;
    }
  }

  /**
   * Whether the server has no capabilities although no 404 could be seen: it sends CORS headers with what it
   * has, and none with errors, so that a page of another origin cannot read those. So something must
   * answer there that may not be read, twice, where what every server has may be.
   */
  private async _hidesThem(): Promise<boolean> {
    const mute = async (): Promise<boolean> => (await this._blind())?.type === 'opaque';
    const told = async (): Promise<boolean> => {
      try {
        return (await this._get(CAPABILITIES_PATH, { cache: 'no-store', redirect: 'error' })).ok;
      } catch {
        return false;
      }
    };
    return (await mute()) && (await this._isServer()) && !(await told()) && (await mute());
  }

  /** Whether a Jupyter server answers: proxies have a 404 of their own while it is away. */
  private async _isServer(): Promise<boolean> {
    try {
      const response = await this._get(VERSION_PATH, { cache: 'no-store', redirect: 'error' });
      const found = (await response.json()) as { readonly version?: unknown } | null;
      return response.ok && typeof found?.version === 'string';
    } catch {
      return false;
    }
  }

  /** The capabilities as they are now, `undefined` where nothing answers or something else. */
  private async _found(): Promise<Capabilities | null | undefined> {
    try {
      const found = await this._preflight('no-store');
      if (found) {
        // The extension may have come since. That it is gone is not believed: no downgrade.
        this._asked = Promise.resolve(found);
      }
      return found;
    } catch {
      return undefined;
    }
  }

  private async _preflight(cache: RequestCache): Promise<Capabilities | null> {
    const response = await this._get(CAPABILITIES_PATH, { cache, redirect: 'error' });
    if (response.status === 404 && (await this._isServer())) {
      return null;
    }
    const found: unknown = response.ok ? await response.json() : null;
    const capabilities = readCapabilities(found);
    if (!capabilities) {
      throw new Error(`No capabilities, and no word that there are none: HTTP ${response.status}`);
    }
    return capabilities;
  }

  /**
   * An answer that may not be one for this page to read, `null` where there is none. A page of another
   * origin may not read what it was, and the browser does not say that this was the reason for an error.
   */
  private async _blind(): Promise<Response | null> {
    try {
      return await this._get(CAPABILITIES_PATH, { mode: 'no-cors', credentials: 'omit', cache: 'no-store' });
    } catch {
      return null;
    }
  }

  /** Whether plain requests with this credential are admitted; `null` where that cannot be found out. */
  private async _admits(credential: Credential): Promise<boolean | null> {
    try {
      const byToken = { credentials: 'omit', headers: { Authorization: `token ${this.token}` } } as const;
      const response = await this._get(WHO_AM_I_PATH, {
        cache: 'no-store',
        redirect: 'manual', // to a login page
        ...(credential === 'token' ? byToken : { credentials: 'include', headers: xsrf(this.baseUrl) })
      });
      if (response.type === 'opaqueredirect' || [301, 302, 303, 307, 401, 403].includes(response.status)) {
        return false;
      }
      return response.ok || null;
    } catch {
      return null;
    }
  }

  private _get(path: string, options: RequestInit): Promise<Response> {
    const signal = AbortSignal.timeout(PREFLIGHT_TIMEOUT);
    return this._fetch(this.baseUrl + path, { ...options, signal });
  }
}

/** Seconds. */
export function now(): number {
  return performance.now() / 1000;
}

/**
 * The header without which some servers (JupyterHub's) take no cookie for a plain request: what stands in
 * another cookie, which only pages of the server's own origin can read. Where it is set for several paths,
 * servers count the last.
 */
function xsrf(baseUrl: string): Record<string, string> {
  const place = globalThis as { document?: { cookie: string } };
  if (!place.document || !isHome(baseUrl)) {
    return {};
  }
  const [, value] = [...place.document.cookie.matchAll(/(?:^|; *)_xsrf=([^;]*)/g)].pop() ?? [];
  return value === undefined ? {} : { 'X-XSRFToken': value };
}

/** Whether an address is of the origin that the page came from. */
function isHome(address: string): boolean {
  const place = globalThis as { location?: { origin: string } };
  return place.location?.origin === new URL(address).origin;
}

/** Whether an answer may be the server's: where a page can be read, somebody else answers in its place. */
function isOfServer(answer: Response | null): boolean {
  if (answer?.ok) {
    return !answer.headers.get('Content-Type')?.startsWith('text/html');
  }
  return answer?.type === 'opaque';
}

/** Resolves with the promise or when the signal is aborted; leaves nothing behind. */
async function unlessAborted(work: Promise<void>, signal: AbortSignal): Promise<void> {
  if (signal.aborted) {
    return;
  }
  let stop = (): void => undefined;
  const aborted = new Promise<void>(resolve => {
    stop = resolve;
  });
  signal.addEventListener('abort', stop);
  await Promise.race([work, aborted]);
  signal.removeEventListener('abort', stop);
}

/** The document if that is what it is, and of a version we know, without members of another type; else `null`. */
export function readCapabilities(found: unknown): Capabilities | null {
  const versions = (found as Partial<Capabilities> | null)?.api_versions;
  const major = API_VERSIONS[0].replace(/[^.]*$/, '');
  const known = Array.isArray(versions) && versions.some(version => String(version).startsWith(major));
  if (!known) {
    return null;
  }
  const isText = (value: unknown): boolean => typeof value === 'string';
  const isObject = (value: unknown): boolean =>
    typeof value === 'object' && value !== null && !Array.isArray(value);
  const isType: Record<string, (value: unknown) => boolean> = {
    base_url: isText,
    ws_url: isText,
    token: isObject,
    reasons: isObject,
    sockets: value => Array.isArray(value) && value.every(isText)
  };
  const right = Object.entries(found as object).filter(([name, value]) => isType[name]?.(value) ?? true);
  return Object.fromEntries(right) as unknown as Capabilities;
}
