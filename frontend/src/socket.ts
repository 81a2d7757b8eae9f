/**
 * `TokenWebSocket`: a drop-in for the browser's `WebSocket`.
 *
 * It is a class of its own: the handshake is decided after the constructor returned, one socket may need
 * two attempts, and a refused path must be able to wait. Applications see the ordinary interface; the token,
 * the markers and a refusal's short-lived opening stay out of their sight. What it says to people never
 * contains an address or a protocol: a token may be in them.
 */

import type { Carrier } from './carrier.js';
import { now, type Cause, type Connections } from './connections.js';
import { REASON_MARKER } from './constants.js';
import { HEALTHY_AFTER, type Credential } from './policy.js';
import { parseClose, reasonOf, type Closed } from './reasons.js';
import { offerSubprotocols, visibleProtocol, withoutToken, withToken } from './subprotocols.js';
import { tokenRoute } from './trust.js';

/**
 * Milliseconds that an opening is held back where the answered subprotocol leaves open whether it is a
 * refusal: an accepted socket of a handler without subprotocols looks the same until it speaks.
 */
const UNDECIDED = 150;

/**
 * Seconds after which it is asked why a handshake takes so long: a kernel may be starting, or something on the
 * way swallows websockets. Longer after each failure, up to the longest.
 */
const DOUBT = { first: 5, longest: 120 } as const;

const CONNECTING = 0;
const OPEN = 1;
const CLOSING = 2;
const CLOSED = 3;
const STATES = { CONNECTING, OPEN, CLOSING, CLOSED } as const;

type Data = string | ArrayBufferLike | Blob | ArrayBufferView;

type Handlers = {
  open: ((event: Event) => unknown) | null;
  message: ((event: MessageEvent) => unknown) | null;
  error: ((event: Event) => unknown) | null;
  close: ((event: CloseEvent) => unknown) | null;
};

/** What an attempt to a declared socket of our server knows. */
interface Own {
  readonly path: string;
  readonly credential: Credential;
  /** The token that it shows, empty for none. */
  readonly token: string;
  /** How the attempt before this one ended, with the other credential. */
  readonly before: { readonly closed: Closed; readonly end: End } | null;
}

type End = Pick<CloseEvent, 'code' | 'reason' | 'wasClean'>;

/** A subprotocol's characters (RFC 6455 section 4.1, the tokens of RFC 2616). */
const NAME = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;

/** Make the class for one server. It can be given to any library that takes a `WebSocket`. */
export function tokenWebSocket(connections: Connections): typeof WebSocket {
  class TokenWebSocket extends TokenSocket {
    constructor(url: string | URL, protocols?: string | string[]) {
      super(connections, url, protocols);
    }
  }
  return TokenWebSocket as unknown as typeof WebSocket;
}

export class TokenSocket extends EventTarget {
  declare static readonly CONNECTING: 0;
  declare static readonly OPEN: 1;
  declare static readonly CLOSING: 2;
  declare static readonly CLOSED: 3;
  declare readonly CONNECTING: 0;
  declare readonly OPEN: 1;
  declare readonly CLOSING: 2;
  declare readonly CLOSED: 3;

  readonly url: string;
  /** As the application gave it; our token may be in it. */
  private readonly _address: string;
  private readonly _protocols: readonly string[];
  private readonly _handlers: Handlers = { open: null, message: null, error: null, close: null };
  /** Aborted when the application gives up before the socket opened. */
  private readonly _given = new AbortController();
  private _state: 0 | 1 | 2 | 3 = CONNECTING;
  private _native: Carrier | null = null;
  private _binaryType: BinaryType = 'blob';
  private _protocol = '';
  private _extensions = '';
  /** Lets other sockets to the path have their turn. */
  private _turn: () => void = () => undefined;
  /** Below the server's base; `null` for a foreign address, and once it opened or never will. */
  private _connecting: string | null;
  /** Bytes that were sent when nothing could go out any more: they count for ever (WHATWG). */
  private _lost = 0;

  /**
   * @throws DOMException `SyntaxError` for an address that is none, and for a subprotocol that is not valid
   *   or named twice.
   */
  constructor(
    private readonly _connections: Connections,
    url: string | URL,
    protocols: string | string[] = []
  ) {
    super();
    const address = checkedUrl(url);
    this._protocols = checkedProtocols(protocols);
    this._address = address;
    this.url = withoutToken(address, _connections.token);
    this._connecting = _connections.below(address);
    if (this._connecting !== null) {
      _connections.joined(this._connecting);
    }
    // Later: no event may come before the application could listen.
    this._guard(Promise.resolve().then(() => this._run()));
  }

  get [Symbol.toStringTag](): string {
    return 'WebSocket';
  }

  get readyState(): number {
    // The peer's close frame is known to the carrier before the event comes.
    return this._state === OPEN && this._native && this._native.readyState > OPEN ? CLOSING : this._state;
  }

  get protocol(): string {
    return this._protocol;
  }

  get extensions(): string {
    return this._extensions;
  }

  get bufferedAmount(): number {
    return this._lost + (this._native?.bufferedAmount ?? 0);
  }

  get binaryType(): BinaryType {
    return this._binaryType;
  }

  set binaryType(value: BinaryType) {
    if (value !== 'blob' && value !== 'arraybuffer') {
      return; // as for every enumeration of the platform
    }
    this._binaryType = value;
    if (this._native && this._state !== CONNECTING) {
      this._native.binaryType = value;
    }
  }

  get onopen(): Handlers['open'] {
    return this._handlers.open;
  }

  set onopen(handler: Handlers['open']) {
    this._handle('open', handler);
  }

  get onmessage(): Handlers['message'] {
    return this._handlers.message;
  }

  set onmessage(handler: Handlers['message']) {
    this._handle('message', handler);
  }

  get onerror(): Handlers['error'] {
    return this._handlers.error;
  }

  set onerror(handler: Handlers['error']) {
    this._handle('error', handler);
  }

  get onclose(): Handlers['close'] {
    return this._handlers.close;
  }

  set onclose(handler: Handlers['close']) {
    this._handle('close', handler);
  }

  /** @throws DOMException `InvalidStateError` while connecting. */
  send(data: Data): void {
    if (this._state === CONNECTING) {
      throw new DOMException('The socket is still connecting.', 'InvalidStateError');
    }
    if (this._state === OPEN && this._native) {
      this._native.send(data);
    } else {
      this._lost += sizeOf(data);
    }
  }

  /**
   * @throws DOMException `InvalidAccessError` for a code that is neither 1000 nor from 3000 to 4999,
   *   `SyntaxError` for a reason of more than 123 bytes.
   */
  close(code?: number, reason?: string): void {
    const number = code === undefined ? undefined : Math.round(Number(code));
    if (number !== undefined && number !== 1000 && !(number >= 3000 && number <= 4999)) {
      throw new DOMException('The close code must be 1000 or from 3000 to 4999.', 'InvalidAccessError');
    }
    if (reason !== undefined && sizeOf(String(reason)) > 123) {
      throw new DOMException('The close reason must not be longer than 123 bytes.', 'SyntaxError');
    }
    if (this._state === OPEN && this._native) {
      this._state = CLOSING;
      this._native.close(number, reason);
    } else if (this._state === CONNECTING) {
      this._state = CLOSING;
      this._given.abort();
      this._parted(true);
      this._native?.close();
      setTimeout(() => this._end(1006, '', false, true));
    }
  }

  /** The life of the socket. No failure of ours keeps an application from trying as it would without us. */
  private async _run(): Promise<void> {
    try {
      await this._begin();
    } catch (error) {
      if (this._native) {
        throw error;
      }
      console.error(error);
      this._attempt(this.url, this._protocols, null);
    }
  }

  /** From the decision how to connect to the first handshake. */
  private async _begin(): Promise<void> {
    const connections = this._connections;
    const path = connections.below(this.url);
    if (path === null) {
      this._attempt(this.url, this._protocols, null);
      return;
    }
    await connections.mayConnect(path, this._given.signal);
    const capabilities = await connections.capabilities().catch(() => undefined);
    if (connections.declares(path, capabilities)) {
      // Another socket to this path may have learned something meanwhile.
      await this._enter(path);
    } else {
      // A server without the extension takes tokens no other way, and stock puts them there.
      const asGiven = capabilities === null && connections.allowTokenInUrl;
      this._attempt(asGiven ? this._address : this.url, this._protocols, null);
    }
  }

  /** Connect when that is wise. */
  private async _enter(path: string): Promise<void> {
    const connections = this._connections;
    this._turn();
    this._turn = await connections.turn(path, this._given.signal);
    const first = connections.state(path).first(connections.cookies, connections.token);
    await this._connect(path, first, null);
  }

  private async _connect(path: string, credential: Credential, before: Own['before']): Promise<void> {
    const connections = this._connections;
    // No answer is not the answer that there are none: then nothing goes into the URL (C2.9).
    const capabilities = await connections.capabilities().catch(() => undefined);
    const token = credential === 'token' ? connections.token : '';
    const own = { path, credential, token, before };
    const route =
      capabilities !== undefined
        ? tokenRoute(capabilities, connections.allowTokenInUrl)
        : token
          ? 'subprotocol'
          : 'none'; // a stock server behind it would not answer the reason marker, and browsers insist
    if (route === 'subprotocol') {
      this._attempt(this.url, offerSubprotocols(this._protocols, token || null), own);
    } else if (route === 'url' && token && !this._given.signal.aborted) {
      connections.warnOfUrl();
      const given = withoutToken(this._address, token) !== this._address;
      this._attempt(given ? this._address : withToken(this.url, token), this._protocols, own);
    } else {
      const asGiven = capabilities === null && route === 'url';
      this._attempt(asGiven ? this._address : this.url, this._protocols, own);
    }
  }

  /** One handshake, and what follows it. */
  private _attempt(address: string, protocols: readonly string[], own: Own | null): void {
    if (this._given.signal.aborted) {
      return;
    }
    let native: Carrier;
    try {
      native = this._connections.open(address, protocols, own !== null);
    } catch {
      this._fail(own?.path ?? null);
      return;
    }
    this._native = native;
    // A message may come before it is settled that the socket is open; this type can become either.
    native.binaryType = 'arraybuffer';
    const doubt = own && setTimeout(() => this._guard(this._doubt(own, native)), this._patience(own));
    let held: ReturnType<typeof setTimeout> | undefined;
    let openedAt: number | null = null;
    let failed = false;

    // What came together with the opening waits for a task of its own, so that code which awaits `open`
    // is there for it; whatever comes meanwhile stands in line.
    const line: (() => void)[] = [];
    const inLine = (task: () => void): void => {
      if (line.length) {
        line.push(task);
      } else {
        task();
      }
    };
    const later = (task: () => void): void => {
      line.push(task);
      setTimeout(() => {
        for (let next = line[0]; next; next = line[0]) {
          next();
          line.shift();
        }
      });
    };

    const open = (): void => {
      clearTimeout(held);
      if (this._state !== CONNECTING) {
        return;
      }
      openedAt = now();
      this._state = OPEN;
      this._protocol = own ? visibleProtocol(native.protocol, this._protocols) : native.protocol;
      this._extensions = native.extensions;
      native.binaryType = this._binaryType;
      this._turn();
      this._parted(false);
      if (own) {
        this._connections.opened(own.path);
      }
      this.dispatchEvent(new Event('open'));
    };
    native.onopen = (): void => {
      clearTimeout(doubt ?? undefined);
      if (own && native.protocol === REASON_MARKER) {
        held = setTimeout(open, UNDECIDED);
      } else {
        open();
      }
    };
    native.onmessage = (event: MessageEvent): void => {
      const deliver = (): void => {
        if (this._state === OPEN) {
          const data = this._asWanted(event.data as unknown);
          this.dispatchEvent(new MessageEvent('message', { data, origin: event.origin }));
        }
      };
      if (this._state === CONNECTING) {
        open();
        later(deliver);
      } else {
        inLine(deliver);
      }
    };
    native.onerror = (): void => {
      failed = true;
    };
    native.onclose = (event: CloseEvent): void => {
      clearTimeout(doubt ?? undefined);
      clearTimeout(held);
      inLine(() => {
        const end = this._native === native && own ? this._settle(own, event, openedAt) : event;
        if (own && openedAt !== null) {
          this._connections.emit({ kind: 'closed', path: own.path });
        }
        if (this._native === native && end) {
          // A socket that never opened has failed, even where the reason came over a complete handshake.
          const never = openedAt === null;
          this._end(end.code, end.reason, end.wasClean && !never, failed || never);
        }
      });
    };
  }

  /** Milliseconds that a handshake may take before anybody wonders. */
  private _patience({ path }: Own): number {
    const { failures } = this._connections.state(path);
    return 1000 * Math.min(DOUBT.longest, DOUBT.first * 2 ** failures);
  }

  /** A handshake takes long. It goes on unless there is a reason to do something else. */
  private async _doubt({ path, credential, token }: Own, native: Carrier): Promise<void> {
    const connections = this._connections;
    const cause = await connections.explain(path, credential, token, this._given.signal);
    const slow = cause === 'unknown' || (cause === 'websockets_blocked' && connections.through);
    if (connections.patient && !slow && native.readyState === CONNECTING) {
      native.close(); // and what follows is as if it had failed by itself
    }
  }

  /** Binary data that came while it was open in which form the application wants it. */
  private _asWanted(data: unknown): unknown {
    return data instanceof ArrayBuffer && this._binaryType === 'blob' ? new Blob([data]) : data;
  }

  /** Learn from the end of an attempt: how the socket ends, or `null` where it tries once more. */
  private _settle(own: Own, end: End, openedAt: number | null): End | null {
    const connections = this._connections;
    const left = this._state === CLOSING;
    connections.ended(own.path, openedAt === null ? 0 : now() - openedAt, left);
    if (left) {
      return end; // what the server says to that changes nothing
    }
    const closed = parseClose(end.code, end.reason);
    if (closed) {
      return this._refused(own, closed, end, openedAt !== null) ? null : end;
    }
    if (openedAt !== null) {
      if (now() - openedAt < HEALTHY_AFTER) {
        connections.state(own.path).stumbled(openedAt, now(), Math.random());
      }
      return end;
    }
    if (own.before && own.credential === 'cookie') {
      // Across origins only a token is told reasons: what was said of it holds.
      this._park(own.path, own.before.closed);
      return this._stays(own.path, own.before.closed) ? null : own.before.end;
    }
    const cause = connections.explain(own.path, own.credential, own.token, this._given.signal);
    if (!own.before && !connections.patient) {
      void cause;
      return end;
    }
    this._guard(this._persist(own, end, cause));
    return null;
  }

  /** Where trying again may help: do so when that is wise. Otherwise the socket ends after all. */
  private async _persist({ path, before }: Own, end: End, found: Promise<Cause>): Promise<void> {
    const connections = this._connections;
    const cause = await found;
    if (this._given.signal.aborted) {
      return;
    }
    const state = connections.state(path);
    if (before && (cause === 'credential_refused' || cause === 'unknown')) {
      this._park(path, before.closed);
      if (!this._stays(path, before.closed)) {
        this._end(before.end.code, before.end.reason, false, true);
      }
      return;
    }
    if (!connections.patient) {
      this._end(end.code, end.reason, false, true);
      return;
    }
    if (cause === 'credential_refused') {
      if (state.exhausted(connections.token !== '')) {
        this._park(path, reasonOf('credentials_missing'));
      }
    } else if (cause === 'server_down') {
      this._turn(); // this takes a while
      await connections.revived(this._given.signal);
    } else if (cause === 'websockets_blocked') {
      state.blocked(now(), Math.random());
    } else {
      this._end(end.code, end.reason, false, true);
      return;
    }
    await this._enter(path);
  }

  /** Whether the socket waits for better days itself; if so, it does from now on. */
  private _stays(path: string, { advice }: Closed): boolean {
    const stays = this._connections.patient && advice !== 'stop';
    if (stays) {
      this._guard(this._enter(path));
    }
    return stays;
  }

  private _park(path: string, closed: Closed): void {
    this._connections.state(path).park(closed);
    this._connections.emit({ kind: 'parked', path, closed });
  }

  /** The server gave a reason; true where this very socket tries once more. */
  private _refused({ path, credential, token }: Own, closed: Closed, end: End, opened: boolean): boolean {
    const connections = this._connections;
    const state = connections.state(path);
    connections.emit({ kind: 'refused', path, closed });
    const hasToken = connections.token !== '';
    const decision = state.refused(closed, credential, hasToken, now(), Math.random(), token);
    if (decision.action === 'again') {
      if (opened) {
        return false; // the application knows it as open: it must see the end, and comes back by itself
      }
      this._guard(this._connect(path, decision.credential, { closed, end }));
      return true;
    }
    if (decision.action === 'park') {
      connections.emit({ kind: 'parked', path, closed });
    } else {
      connections.emit({ kind: 'waiting', path, closed, seconds: decision.notBefore - now() });
    }
    return !opened && this._stays(path, closed);
  }

  /** Nothing of ours may end as an unhandled rejection, nor leave the application without `close`. */
  private _guard(work: Promise<void>): void {
    work.catch(() => this._fail(this._connections.below(this.url)));
  }

  /** It did not even come to a handshake. */
  private _fail(path: string | null): void {
    if (path !== null) {
      this._connections.emit({ kind: 'unexplained', path, cause: 'not_attempted' });
    }
    this._end(1006, '', false, true);
  }

  private _parted(abandoned: boolean): void {
    const path = this._connecting;
    this._connecting = null;
    if (path !== null) {
      this._connections.parted(path, abandoned);
    }
  }

  private _end(code: number, reason: string, wasClean: boolean, failed: boolean): void {
    if (this._state === CLOSED) {
      return;
    }
    this._turn();
    this._parted(false);
    this._lost = this.bufferedAmount;
    this._state = CLOSED;
    this._native = null;
    if (failed) {
      this.dispatchEvent(new Event('error'));
    }
    this.dispatchEvent(new CloseEvent('close', { code, reason, wasClean }));
  }

  /** Event handler attributes: one keeps its place among the listeners until it is taken away. */
  private _handle<K extends keyof Handlers>(kind: K, handler: Handlers[K]): void {
    const before = this._handlers[kind];
    this._handlers[kind] = typeof handler === 'function' ? handler : null;
    if (before === null) {
      this.removeEventListener(kind, this._dispatch);
      this.addEventListener(kind, this._dispatch);
    }
  }

  private readonly _dispatch = (event: Event): void => {
    const handler = this._handlers[event.type as keyof Handlers] as ((event: Event) => unknown) | null;
    handler?.call(this, event);
  };
}

for (const [name, value] of Object.entries(STATES)) {
  for (const place of [TokenSocket, TokenSocket.prototype]) {
    Object.defineProperty(place, name, { value, enumerable: true });
  }
}

function checkedUrl(url: string | URL): string {
  let parsed: URL;
  try {
    parsed = new URL(String(url), pageAddress());
  } catch {
    throw new DOMException('The address is not valid.', 'SyntaxError');
  }
  const scheme = { 'http:': 'ws:', 'https:': 'wss:', 'ws:': 'ws:', 'wss:': 'wss:' }[parsed.protocol];
  if (!scheme || parsed.href.includes('#')) {
    throw new DOMException('The address must be ws or wss, without a fragment.', 'SyntaxError');
  }
  return scheme + parsed.href.slice(parsed.protocol.length);
}

/** What relative addresses are relative to; workers have no document, and node has no location. */
function pageAddress(): string | undefined {
  const place = globalThis as { document?: { baseURI: string }; location?: { href: string } };
  return place.document?.baseURI ?? place.location?.href;
}

function checkedProtocols(protocols: unknown): readonly string[] {
  const isList = typeof protocols === 'object' && protocols !== null && Symbol.iterator in protocols;
  const list = isList ? [...(protocols as Iterable<unknown>)].map(String) : [String(protocols)];
  if (new Set(list).size !== list.length || !list.every(name => NAME.test(name))) {
    throw new DOMException('A subprotocol is not valid or named twice.', 'SyntaxError');
  }
  return list;
}

function sizeOf(data: Data): number {
  if (typeof data === 'object') {
    return data instanceof Blob ? data.size : data.byteLength;
  }
  return new TextEncoder().encode(String(data)).length;
}
