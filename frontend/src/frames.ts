/**
 * Frames of a tunnel (docs/reference/tunnel.md), encoded and decoded.
 *
 * Pure functions; the same JSON vectors hold for the Python side.
 */

import {
  FIN,
  HEADER_SIZE,
  KIND,
  MAX_DATA,
  MAX_REASON_SIZE,
  MAX_STREAM,
  MAX_TEXT,
  TEXT
} from './frame-constants.js';

/** What came is no frame, or what is to go cannot be one. */
export class FrameError extends Error {}

/** Numbers above `Number.MAX_SAFE_INTEGER` are read as that: nobody sends so much. */
export type Frame =
  | {
      readonly kind: 'open';
      readonly stream: number;
      readonly path: string;
      readonly subprotocols: readonly string[];
      readonly credit: number;
    }
  | {
      readonly kind: 'opened';
      readonly stream: number;
      readonly subprotocol: string | null;
      readonly credit: number;
    }
  | {
      readonly kind: 'data';
      readonly stream: number;
      readonly payload: Uint8Array;
      readonly fin: boolean;
      readonly text: boolean;
    }
  | { readonly kind: 'end'; readonly stream: number }
  | { readonly kind: 'close'; readonly stream: number; readonly code: number | null; readonly reason: string }
  | { readonly kind: 'hello'; readonly document: Readonly<Record<string, unknown>> }
  | { readonly kind: 'ack'; readonly received: number; readonly limit: number }
  | { readonly kind: 'credit'; readonly stream: number; readonly limit: number };

/** Some frames, and the number of the first numbered one among them. */
export interface Batch {
  readonly first: number;
  readonly frames: Uint8Array;
}

/** Bytes of the number before a batch in a websocket message. */
const NUMBER_SIZE = 8;

const UTF8 = new TextEncoder();
const STRICT = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/**
 * A frame's bytes.
 *
 * @throws FrameError for what is too long.
 */
export function encode(frame: Frame): Uint8Array {
  const payload = payloadOf(frame);
  if (payload.length > (frame.kind === 'data' ? MAX_DATA : MAX_TEXT)) {
    throw new FrameError('the frame is too long');
  }
  const flags = frame.kind === 'data' ? (frame.fin ? FIN : 0) | (frame.text ? TEXT : 0) : 0;
  const kind = KIND[frame.kind.toUpperCase() as keyof typeof KIND];
  const made = new Uint8Array(HEADER_SIZE + payload.length);
  const view = new DataView(made.buffer);
  view.setUint8(0, kind);
  view.setUint8(1, flags);
  view.setUint32(2, 'stream' in frame ? frame.stream : 0);
  view.setUint32(6, payload.length);
  made.set(payload, HEADER_SIZE);
  return made;
}

/**
 * The frames in some bytes, which must be whole.
 *
 * @throws FrameError for what is none, when its turn comes.
 */
export function* decode(data: Uint8Array): Generator<Frame, void, undefined> {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  let at = 0;
  while (at < data.length) {
    if (data.length - at < HEADER_SIZE) {
      throw new FrameError("a frame's header is cut");
    }
    const kind = view.getUint8(at);
    const flags = view.getUint8(at + 1);
    const stream = view.getUint32(at + 2);
    const size = view.getUint32(at + 6);
    at += HEADER_SIZE;
    if (data.length - at < size) {
      throw new FrameError("a frame's payload is cut");
    }
    yield read(kind, flags, stream, data.subarray(at, at + size));
    at += size;
  }
}

/** A batch as a websocket message. */
export function toMessage({ first, frames }: Batch): Uint8Array {
  const made = new Uint8Array(NUMBER_SIZE + frames.length);
  setNumber(new DataView(made.buffer), 0, first);
  made.set(frames, NUMBER_SIZE);
  return made;
}

/**
 * The batch in a websocket message.
 *
 * @throws FrameError for one that is too short.
 */
export function fromMessage(message: Uint8Array): Batch {
  if (message.length < NUMBER_SIZE) {
    throw new FrameError('the message is too short');
  }
  return { first: numberAt(message, 0), frames: message.subarray(NUMBER_SIZE) };
}

/** A batch as the body of a `POST`, which may `ask` for an event. */
export function toPost({ first, frames }: Batch, ask?: boolean): string {
  let text = '';
  for (const byte of frames) {
    text += String.fromCharCode(byte);
  }
  return JSON.stringify({ first, frames: btoa(text), ask });
}

/**
 * The batch in an event, of which `id` and `data` are given.
 *
 * @throws FrameError for what is no batch.
 */
export function fromEvent(id: string, data: string): Batch {
  const first = Number(id);
  if (!Number.isSafeInteger(first) || first < 1) {
    throw new FrameError('the event has no number');
  }
  try {
    return { first, frames: Uint8Array.from(atob(data), letter => letter.charCodeAt(0)) };
  } catch {
    throw new FrameError('the event is no base64');
  }
}

// -- payloads ---------------------------------------------------------------------------------------

function payloadOf(frame: Frame): Uint8Array {
  switch (frame.kind) {
    case 'open': {
      const { path, subprotocols, credit } = frame;
      return UTF8.encode(JSON.stringify({ path, subprotocols, credit }));
    }
    case 'opened': {
      const { subprotocol, credit } = frame;
      return UTF8.encode(JSON.stringify({ subprotocol, credit }));
    }
    case 'data':
      return frame.payload;
    case 'end':
      return new Uint8Array(0);
    case 'close': {
      if (frame.code === null) {
        return new Uint8Array(0);
      }
      const made = new Uint8Array(2 + MAX_REASON_SIZE);
      new DataView(made.buffer).setUint16(0, frame.code);
      // Of a reason that is too long the beginning, in whole characters.
      const { written } = UTF8.encodeInto(frame.reason, made.subarray(2));
      return made.subarray(0, 2 + written);
    }
    case 'hello':
      return UTF8.encode(JSON.stringify(frame.document));
    case 'ack': {
      const made = new DataView(new ArrayBuffer(16));
      setNumber(made, 0, frame.received);
      setNumber(made, 8, frame.limit);
      return new Uint8Array(made.buffer);
    }
    case 'credit': {
      const made = new DataView(new ArrayBuffer(8));
      setNumber(made, 0, frame.limit);
      return new Uint8Array(made.buffer);
    }
  }
}

function read(kind: number, flags: number, stream: number, payload: Uint8Array): Frame {
  if (kind === KIND.DATA) {
    if (payload.length > MAX_DATA || flags > (FIN | TEXT) || stream < 1 || stream > MAX_STREAM) {
      throw new FrameError('the frame is no data');
    }
    return { kind: 'data', stream, payload, fin: (flags & FIN) !== 0, text: (flags & TEXT) !== 0 };
  }
  const ofTunnel = kind === KIND.HELLO || kind === KIND.ACK;
  const wrongStream = kind !== KIND.CLOSE && (stream === 0) !== ofTunnel;
  if (flags !== 0 || stream > MAX_STREAM || payload.length > MAX_TEXT || wrongStream) {
    throw new FrameError('the frame is not as its kind is');
  }
  switch (kind) {
    case KIND.OPEN: {
      const { path, subprotocols, credit } = document(payload);
      const names = Array.isArray(subprotocols) && subprotocols.every(each => typeof each === 'string');
      if (typeof path !== 'string' || !names) {
        throw new FrameError('that opens no stream');
      }
      return { kind: 'open', stream, path, subprotocols, credit: count(credit) };
    }
    case KIND.OPENED: {
      const { subprotocol, credit } = document(payload);
      if (subprotocol !== null && typeof subprotocol !== 'string') {
        throw new FrameError('that is no subprotocol');
      }
      return { kind: 'opened', stream, subprotocol, credit: count(credit) };
    }
    case KIND.END:
      sized(payload, 0);
      return { kind: 'end', stream };
    case KIND.CLOSE:
      return { kind: 'close', stream, ...closing(payload) };
    case KIND.HELLO: {
      const said = document(payload);
      count(said.received);
      return { kind: 'hello', document: said };
    }
    case KIND.ACK:
      sized(payload, 16);
      return { kind: 'ack', received: numberAt(payload, 0), limit: numberAt(payload, 8) };
    case KIND.CREDIT:
      sized(payload, 8);
      return { kind: 'credit', stream, limit: numberAt(payload, 0) };
    default:
      throw new FrameError('there is no such kind of frame');
  }
}

function closing(payload: Uint8Array): { code: number | null; reason: string } {
  if (payload.length === 0) {
    return { code: null, reason: '' };
  }
  if (payload.length < 2 || payload.length > 2 + MAX_REASON_SIZE) {
    throw new FrameError('that is no close code');
  }
  const code = new DataView(payload.buffer, payload.byteOffset).getUint16(0);
  if (code < 1000 || code > 4999) {
    throw new FrameError('that is no close code');
  }
  return { code, reason: text(payload.subarray(2)) };
}

function text(payload: Uint8Array): string {
  try {
    return STRICT.decode(payload);
  } catch {
    throw new FrameError('the payload is no text');
  }
}

function document(payload: Uint8Array): Record<string, unknown> {
  let found: unknown;
  try {
    found = JSON.parse(text(payload));
  } catch {
    throw new FrameError('the payload is no JSON');
  }
  if (typeof found !== 'object' || found === null || Array.isArray(found)) {
    throw new FrameError('the payload is no object');
  }
  return found as Record<string, unknown>;
}

function sized(payload: Uint8Array, size: number): void {
  if (payload.length !== size) {
    throw new FrameError('the frame is not as its kind is');
  }
}

function count(value: unknown): number {
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 0 || value > 2 ** 63) {
    throw new FrameError('that is no number');
  }
  return Math.min(value, Number.MAX_SAFE_INTEGER);
}

function numberAt(payload: Uint8Array, at: number): number {
  const view = new DataView(payload.buffer, payload.byteOffset);
  return Math.min(view.getUint32(at) * 2 ** 32 + view.getUint32(at + 4), Number.MAX_SAFE_INTEGER);
}

function setNumber(view: DataView, at: number, value: number): void {
  view.setUint32(at, Math.floor(value / 2 ** 32));
  view.setUint32(at + 4, value % 2 ** 32);
}
