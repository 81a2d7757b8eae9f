/**
 * `TokenWebSocket`: a drop-in for the browser's `WebSocket`.
 *
 * It is a class of its own: the handshake is decided after the constructor returned, one socket may need
 * two attempts, and a refused path must be able to wait. Applications see the ordinary interface; the token,
 * the markers and a refusal's short-lived opening stay out of their sight.
 */

import { now, type Connections } from './connections';
import { REASON_MARKER } from './constants';
import { HEALTHY_AFTER, type Credential } from './policy';
import { parseClose, type Closed } from './reasons';
import { offerSubprotocols, visibleProtocol, withoutToken, withToken } from './subprotocols';
import { tokenRoute } from './trust';

/**
 * Milliseconds that an opening is held back where the answered subprotocol leaves open whether it is a
 * refusal: an accepted socket of a handler without subprotocols looks the same until it speaks.
 */
const UNDECIDED = 150;

type Handlers = {
  open: ((event: Event) => unknown) | null;
  message: ((event: MessageEvent) => unknown) | null;
  error: ((event: Event) => unknown) | null;
  close: ((event: CloseEvent) => unknown) | null;
};

const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;

/** Make the class for one server. It can be given to any library that takes a `WebSocket`. */
export function tokenWebSocket(connections: Connections): typeof WebSocket {
  class TokenWebSocket extends TokenSocket {
    constructor(url: string | URL, protocols?: string | string[]) {
      super(connections, url, protocols);
    }
  }
  Object.defineProperty(TokenWebSocket, 'name', { value: 'TokenWebSocket' });
  return TokenWebSocket as unknown as typeof WebSocket;
}

export class TokenSocket extends EventTarget {
  static readonly CONNECTING = 0;
  static readonly OPEN = 1;
  static readonly CLOSING = 2;
  static readonly CLOSED = 3;
  readonly CONNECTING = 0;
  readonly OPEN = 1;
  readonly CLOSING = 2;
  readonly CLOSED = 3;

  readonly url: string;
  private readonly _protocols: readonly string[];
  private readonly _handlers: Handlers = { open: null, message: null, error: null, close: null };
  private readonly _given = new AbortController();
  private _state = 0;
  private _native: WebSocket | null = null;
  private _binaryType: BinaryType = 'blob';
  private _protocol = '';
  private _extensions = '';
  /** Bytes that were sent after the socket closed: they count for ever (WHATWG). */
  private _lost = 0;

  constructor(
    private readonly _connections: Connections,
    url: string | URL,
    protocols: string | string[] = []
  ) {
    super();
    this._protocols = checkedProtocols(protocols);
    this.url = withoutToken(checkedUrl(url), _connections.token);
    void this._run();
  }

  get readyState(): number {
    return this._state;
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
    if (value === 'blob' || value === 'arraybuffer') {
      this._binaryType = value;
      if (this._native) {
        this._native.binaryType = value;
      }
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
  send(data: string | ArrayBufferLike | Blob | ArrayBufferView): void {
    if (this._state === 0) {
      throw new DOMException('The socket is still connecting.', 'InvalidStateError');
    }
    if (this._state === 1 && this._native) {
      this._native.send(data as Parameters<WebSocket['send']>[0]);
    } else {
      this._lost += sizeOf(data);
    }
  }

  /**
   * @throws DOMException `InvalidAccessError` for a code that is neither 1000 nor from 3000 to 4999,
   *   `SyntaxError` for a reason of more than 123 bytes.
   */
  close(code?: number, reason?: string): void {
    if (code !== undefined && code !== 1000 && !(code >= 3000 && code <= 4999)) {
      throw new DOMException(`The close code must be 1000 or from 3000 to 4999, not ${code}.`, 'InvalidAccessError');
    }
    if (reason !== undefined && sizeOf(reason) > 123) {
      throw new DOMException('The close reason must not be longer than 123 bytes.', 'SyntaxError');
    }
    if (this._state >= 2) {
      return;
    }
    if (this._state === 1 && this._native) {
      this._state = 2;
      this._native.close(code, reason);
      return;
    }
    this._state = 2;
    this._given.abort();
    this._native?.close();
    queueMicrotask(() => this._end(1006, '', false));
  }

  /** The life of the socket, from the decision how to connect to the last event. */
  private async _run(): Promise<void> {
    const path = await this._connections.ownPath(this.url);
    if (path === null) {
      this._attempt(this.url, this._protocols, null);
      return;
    }
    await this._connections.mayConnect(path, this._given.signal);
    const state = this._connections.state(path);
    await this._connect(path, state.first(this._connections.cookies, this._connections.token !== ''));
  }

  private async _connect(path: string, credential: Credential): Promise<void> {
    const capabilities = await this._connections.capabilities().catch(() => null);
    const token = credential === 'token' ? this._connections.token : '';
    const route = tokenRoute(capabilities, this._connections.allowTokenInUrl);
    if (route === 'subprotocol') {
      this._attempt(this.url, offerSubprotocols(this._protocols, token || null), { path, credential });
    } else {
      const address = token && route === 'url' ? withToken(this.url, token) : this.url;
      this._attempt(address, this._protocols, { path, credential });
    }
  }

  /** One handshake of the browser's own socket. */
  private _attempt(
    address: string,
    protocols: readonly string[],
    own: { readonly path: string; readonly credential: Credential } | null
  ): void {
    if (this._given.signal.aborted) {
      return;
    }
    const native = new this._connections.native(address, [...protocols]);
    native.binaryType = this._binaryType;
    this._native = native;
    let opened = false;
    let held: ReturnType<typeof setTimeout> | undefined;
    let openedAt = 0;

    const open = (): void => {
      clearTimeout(held);
      held = undefined;
      if (opened || this._state !== 0) {
        return;
      }
      opened = true;
      openedAt = now();
      this._state = 1;
      this._protocol = own ? visibleProtocol(native.protocol) : native.protocol;
      this._extensions = native.extensions;
      this.dispatchEvent(new Event('open'));
      if (own) {
        this._connections.emit({ kind: 'open', path: own.path });
      }
    };
    native.onopen = (): void => {
      if (own && native.protocol === REASON_MARKER) {
        held = setTimeout(open, UNDECIDED);
      } else {
        open();
      }
    };
    native.onmessage = (event: MessageEvent): void => {
      open();
      this.dispatchEvent(
        new MessageEvent('message', { data: event.data as unknown, origin: event.origin })
      );
    };
    native.onclose = (event: CloseEvent): void => {
      clearTimeout(held);
      if (this._state === 3 || this._native !== native) {
        return;
      }
      const closed = own ? parseClose(event.code, event.reason) : null;
      if (own && opened && now() - openedAt >= HEALTHY_AFTER) {
        this._connections.state(own.path).healthy();
      }
      if (own && closed && this._again(own.path, own.credential, closed, opened)) {
        return;
      }
      if (own && !closed && !opened) {
        void this._connections.explain(own.path);
      }
      this._end(event.code, event.reason, event.wasClean);
    };
  }

  /** Settle what a reason means for the path; true where this very socket tries once more. */
  private _again(path: string, credential: Credential, closed: Closed, opened: boolean): boolean {
    const connections = this._connections;
    const state = connections.state(path);
    connections.emit({ kind: 'refused', path, closed });
    const decision = state.refused(closed, credential, connections.token !== '', now(), Math.random());
    if (decision.action === 'again') {
      if (opened) {
        return false; // the application knows it as open: it must see the end, and comes back by itself
      }
      void this._connect(path, decision.credential);
      return true;
    }
    if (decision.action === 'park') {
      connections.emit({ kind: 'parked', path, closed });
    } else {
      connections.emit({ kind: 'waiting', path, closed, seconds: decision.notBefore - now() });
    }
    return false;
  }

  private _end(code: number, reason: string, wasClean: boolean): void {
    if (this._state === 3) {
      return;
    }
    this._lost = this.bufferedAmount;
    this._state = 3;
    this._native = null;
    if (!wasClean) {
      this.dispatchEvent(new Event('error'));
    }
    this.dispatchEvent(new CloseEvent('close', { code, reason, wasClean }));
  }

  private _handle<K extends keyof Handlers>(kind: K, handler: Handlers[K]): void {
    const before = this._handlers[kind];
    this._handlers[kind] = typeof handler === 'function' ? handler : null;
    if (before === null && this._handlers[kind] !== null) {
      this.removeEventListener(kind, this._dispatch);
      this.addEventListener(kind, this._dispatch);
    }
  }

  private readonly _dispatch = (event: Event): void => {
    const handler = this._handlers[event.type as keyof Handlers] as ((event: Event) => unknown) | null;
    handler?.call(this, event);
  };
}

function checkedUrl(url: string | URL): string {
  let parsed: URL;
  try {
    parsed = new URL(String(url), typeof location === 'undefined' ? undefined : location.href);
  } catch {
    throw new DOMException(`The address is not valid: ${String(url).split('?')[0] ?? ''}`, 'SyntaxError');
  }
  const scheme = { 'http:': 'ws:', 'https:': 'wss:', 'ws:': 'ws:', 'wss:': 'wss:' }[parsed.protocol];
  if (!scheme || parsed.hash || parsed.href.endsWith('#')) {
    throw new DOMException('The address must be ws or wss, without a fragment.', 'SyntaxError');
  }
  return scheme + parsed.href.slice(parsed.protocol.length);
}

function checkedProtocols(protocols: string | string[]): readonly string[] {
  const list = typeof protocols === 'string' ? [protocols] : [...protocols].map(String);
  if (new Set(list).size !== list.length || !list.every(name => TOKEN.test(name))) {
    throw new DOMException('A subprotocol is not valid or named twice.', 'SyntaxError');
  }
  return list;
}

function sizeOf(data: string | ArrayBufferLike | Blob | ArrayBufferView): number {
  if (typeof data === 'string') {
    return new TextEncoder().encode(data).length;
  }
  return data instanceof Blob ? data.size : data.byteLength;
}
