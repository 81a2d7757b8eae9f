import { describe, expect, it, test } from 'vitest';

import { HEADER_SIZE, MAX_DATA, MAX_TEXT } from '../src/frame-constants';
import {
  decode,
  encode,
  fromEvent,
  fromMessage,
  FrameError,
  toMessage,
  toPost,
  type Frame
} from '../src/frames';
import { vectors } from './vectors';

/** A frame as the vectors tell it: bytes in hexadecimal, numbers as they are. */
type Told = Record<string, unknown>;

function bytes(hex: string): Uint8Array {
  return Uint8Array.from(Buffer.from(hex, 'hex'));
}

function hex(data: Uint8Array): string {
  return Buffer.from(data).toString('hex');
}

function made(told: Told): Frame {
  return { ...told, ...(told.kind === 'data' && { payload: bytes(told.payload as string) }) } as Frame;
}

function told(frame: Frame): Told {
  return frame.kind === 'data' ? { ...frame, payload: hex(frame.payload) } : { ...frame };
}

/** What is beyond the numbers of JavaScript is as much as there is. */
function bounded(frame: Told): Told {
  return Object.fromEntries(
    Object.entries(frame).map(([name, value]) => [
      name,
      typeof value === 'number' ? Math.min(value, Number.MAX_SAFE_INTEGER) : value
    ])
  );
}

function all(data: Uint8Array): Told[] {
  return [...decode(data)].map(told);
}

test.each(vectors<{ frame: Told; bytes: string }>('frames', 'encode'))(
  'C7.4 encodes: $name',
  ({ frame, bytes: expected }) => {
    expect(hex(encode(made(frame)))).toBe(expected);
    expect(all(bytes(expected))).toEqual([frame]);
  }
);

test.each(vectors<{ frames: Told[]; bytes: string }>('frames', 'decode'))(
  'C7.4 decodes: $name',
  ({ frames, bytes: data }) => {
    expect(all(bytes(data))).toEqual(frames.map(bounded));
  }
);

interface Refused {
  bytes: string;
  then?: string;
  times?: number;
  rest?: string;
  before: number;
}

test.each(vectors<Refused>('frames', 'refused'))(
  'C7.4 refuses: $name',
  ({ bytes: begin, then = '', times = 0, rest = '', before }) => {
    const reading = decode(bytes(begin + then.repeat(times) + rest));
    for (let count = 0; count < before; count++) {
      expect(reading.next().done).toBe(false);
    }
    expect(() => reading.next()).toThrow(FrameError);
  }
);

interface Batched {
  first: number;
  frames: Told[];
  ask?: boolean;
  websocket: string;
  event: string;
  post: string;
}

test.each(vectors<Batched>('frames', 'batches'))('C7.2 a batch: $name', one => {
  const frames = bytes(one.frames.map(each => hex(encode(made(each)))).join(''));
  const batch = { first: one.first, frames };
  expect(hex(toMessage(batch))).toBe(one.websocket);
  expect(fromMessage(bytes(one.websocket))).toEqual(batch);
  expect(toPost(batch, one.ask)).toBe(one.post);
  const [, id, data] = /^id: (.*)\ndata: (.*)\n\n$/.exec(one.event) ?? [];
  expect(fromEvent(id!, data!)).toEqual(batch);
});

interface Conversation {
  steps: {
    hear?: { bytes: string; frames?: Told[]; refused?: string };
    say?: { frames: Told[] } | null;
  }[];
}

test.each(vectors<Conversation>('frames', 'conversations'))('C7.4 the frames of: $name', ({ steps }) => {
  for (const { hear, say } of steps) {
    if (hear?.frames) {
      expect(all(bytes(hear.bytes))).toEqual(hear.frames.map(bounded));
    }
    for (const frame of say?.frames ?? []) {
      expect(all(encode(made(frame)))).toEqual([frame]);
    }
  }
});

describe('what the vectors cannot tell', () => {
  it('a view of a larger buffer is read as what it shows', () => {
    const frame = encode({ kind: 'close', stream: 7, code: 1000, reason: 'bye' });
    const larger = new Uint8Array(frame.length + 5);
    larger.set(frame, 3);
    expect(all(larger.subarray(3, 3 + frame.length))).toEqual([
      { kind: 'close', stream: 7, code: 1000, reason: 'bye' }
    ]);
  });

  it('of a reason that is too long the beginning is told, in whole characters', () => {
    const [frame] = all(encode({ kind: 'close', stream: 1, code: 4000, reason: 'x'.repeat(122) + 'ü' }));
    expect(frame).toMatchObject({ reason: 'x'.repeat(122) });
  });

  it('nothing is encoded that would be refused for its length', () => {
    const payload = new Uint8Array(MAX_DATA + 1);
    const data = { kind: 'data', stream: 1, fin: true, text: false } as const;
    expect(encode({ ...data, payload: payload.subarray(1) })).toHaveLength(HEADER_SIZE + MAX_DATA);
    expect(() => encode({ ...data, payload })).toThrow(FrameError);
    const path = 'x'.repeat(MAX_TEXT);
    expect(() => encode({ kind: 'open', stream: 1, path, subprotocols: [], credit: 0 })).toThrow(FrameError);
  });

  it('no batch is read from what has none', () => {
    expect(() => fromMessage(new Uint8Array(7))).toThrow(FrameError);
    for (const id of ['', 'x', '0', '1.5', '-1', '1e400']) {
      expect(() => fromEvent(id, '')).toThrow(FrameError);
    }
    expect(() => fromEvent('1', '!')).toThrow(FrameError);
  });
});
