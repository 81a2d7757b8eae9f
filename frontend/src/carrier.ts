/**
 * What carries a `TokenWebSocket`: usually the browser's own socket.
 *
 * The seam for other ways, where a network lets no websockets through. A carrier behaves as a `WebSocket`
 * does that was just made: its events come in tasks of their own, `close` last and once.
 */

/** The part of `WebSocket` that a carrier needs; the browser's class fits. */
export interface Carrier {
  binaryType: BinaryType;
  readonly bufferedAmount: number;
  readonly extensions: string;
  readonly protocol: string;
  readonly readyState: number;
  onopen: ((event: Event) => void) | null;
  onmessage: ((event: MessageEvent) => void) | null;
  onerror: ((event: Event) => void) | null;
  onclose: ((event: CloseEvent) => void) | null;
  send(data: string | ArrayBufferLike | Blob | ArrayBufferView): void;
  close(code?: number, reason?: string): void;
}

/**
 * Begins a handshake. Sockets of other servers never come here.
 *
 * @throws whatever it likes; the application sees `error` and `close`.
 */
export type OpenCarrier = (address: string, protocols: string[]) => Carrier;
