/** The interface of `WebSocket`, event by event, over a carrier that the tests play. */

import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import { Connections, type ConnectionEvent, type ConnectionOptions } from '../src/connections';
import { KERNEL, MARKER, REASON_MARKER } from '../src/constants';
import { parseClose, type Closed } from '../src/reasons';
import { tokenWebSocket } from '../src/socket';
import type { Capabilities } from '../src/trust';
import { FakeCarrier } from './carrier';
import { CAPABILITIES } from './server';

const BASE = 'ws://host/ann/';
const URL_OF_KERNEL = `${BASE}api/kernels/1/channels`;
const SECRET = 'very-secret';

let carriers: FakeCarrier[];
let events: ConnectionEvent[];

function make(options: Partial<ConnectionOptions> = {}): {
  connections: Connections;
  TokenWebSocket: typeof WebSocket;
} {
  const connections = new Connections({
    baseUrl: 'http://host/ann/',
    capabilities: CAPABILITIES as Capabilities,
    token: () => SECRET,
    fetch: () => Promise.reject(new TypeError('no network in this test')),
    onEvent: event => events.push(event),
    WebSocket: class extends FakeCarrier {
      constructor(address: string, protocols: string[]) {
        super(address, protocols);
        carriers.push(this);
      }
    },
    ...options
  });
  return { connections, TokenWebSocket: tokenWebSocket(connections) };
}

/** What a server without the extension answers. */
function stock(address: unknown): Promise<Response> {
  const isApi = String(address).endsWith('/api');
  return Promise.resolve(isApi ? Response.json({ version: '2.0' }) : new Response(null, { status: 404 }));
}

/** Let promises go on, and timers up to `milliseconds`. */
async function turn(milliseconds = 0): Promise<void> {
  await vi.advanceTimersByTimeAsync(milliseconds);
}

/** The carrier of the newest attempt. */
async function carrier(): Promise<FakeCarrier> {
  await turn();
  const newest = carriers[carriers.length - 1];
  if (!newest) {
    throw new Error('no attempt was made');
  }
  return newest;
}

/** How many paths are remembered. */
function kept(connections: Connections): number {
  return (connections as unknown as { _paths: Map<string, unknown> })._paths.size;
}

/** Every event of a socket, in order, in short. */
function heard(socket: WebSocket): unknown[] {
  const list: unknown[] = [];
  socket.addEventListener('open', () => list.push('open'));
  socket.addEventListener('message', event => list.push(event.data));
  socket.addEventListener('error', () => list.push('error'));
  socket.addEventListener('close', event => list.push([event.code, event.reason, event.wasClean]));
  return list;
}

async function opened(options: Partial<ConnectionOptions> = {}): Promise<[WebSocket, FakeCarrier]> {
  const socket = new (make(options).TokenWebSocket)(URL_OF_KERNEL, KERNEL);
  const native = await carrier();
  native.open(KERNEL);
  return [socket, native];
}

beforeEach(() => {
  carriers = [];
  events = [];
  vi.useFakeTimers();
});

afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
  vi.restoreAllMocks();
});

describe('the class', () => {
  it('has the constants, on itself and on its sockets, for good', async () => {
    const [socket] = await opened();
    for (const place of [make().TokenWebSocket, make().TokenWebSocket.prototype, socket]) {
      expect([place.CONNECTING, place.OPEN, place.CLOSING, place.CLOSED]).toEqual([0, 1, 2, 3]);
    }
    expect(() => Object.assign(socket, { OPEN: 5 })).toThrow(TypeError);
    expect(Object.keys(socket)).not.toContain('OPEN');
  });

  it('is an EventTarget that calls itself a WebSocket', async () => {
    const [socket] = await opened();
    expect(socket).toBeInstanceOf(EventTarget);
    expect(Object.prototype.toString.call(socket)).toBe('[object WebSocket]');
  });

  it.each([URL_OF_KERNEL, 'ws://elsewhere/'])('makes no sound before the constructor returned: %s', url => {
    new (make().TokenWebSocket)(url);
    expect(carriers).toEqual([]);
  });
});

describe('the address', () => {
  it.each([
    ['ws://host/ann', 'ws://host/ann'],
    ['http://host', 'ws://host/'],
    ['https://host:443/x?a#'.slice(0, -1), 'wss://host/x?a'],
    [new URL('wss://host/é'), 'wss://host/%C3%A9']
  ])('%s is %s', (given, url) => {
    expect(new (make().TokenWebSocket)(given).url).toBe(url);
  });

  it('is relative to the page', () => {
    vi.stubGlobal('document', { baseURI: 'https://host/ann/lab/' });
    expect(new (make().TokenWebSocket)('../api/x').url).toBe('wss://host/ann/api/x');
  });

  it('is relative to the script of a worker', () => {
    vi.stubGlobal('location', { href: 'http://host/ann/worker.js' });
    expect(new (make().TokenWebSocket)('api/x').url).toBe('ws://host/ann/api/x');
  });

  it.each(['', '/relative', 'ftp://host/', 'ws://host/#', 'ws://host/#x', 'javascript:1', 'ws://ho st/'])(
    '%j is a SyntaxError',
    given => {
      expect(() => new (make().TokenWebSocket)(given)).toThrow(
        expect.objectContaining({ name: 'SyntaxError' }) as Error
      );
    }
  );

  it('does not show our token, nor does an exception', () => {
    const { TokenWebSocket } = make();
    expect(new TokenWebSocket(`${URL_OF_KERNEL}?a=1&token=${SECRET}`).url).toBe(`${URL_OF_KERNEL}?a=1`);
    for (const bad of [`ws://:${SECRET}@/`, `ws://host/?token=${SECRET}#`, `x?token=${SECRET}`]) {
      let message = '';
      try {
        new TokenWebSocket(bad);
      } catch (error) {
        message = String(error);
      }
      expect(message).not.toBe('');
      expect(message).not.toContain(SECRET);
    }
  });
});

describe('subprotocols', () => {
  it.each([
    [undefined, []],
    [[], []],
    ['a', ['a']],
    [
      ['a', 'A'],
      ['a', 'A']
    ],
    [new Set(['a', 'b']) as unknown as string[], ['a', 'b']],
    [[7] as unknown as string[], ['7']],
    [null as unknown as string, ['null']]
  ])('%j are offered as %j', async (given, offered) => {
    new (make().TokenWebSocket)('ws://elsewhere/', given);
    expect((await carrier()).protocols).toEqual(offered);
  });

  it.each([[['a', 'a']], ['a b'], ['a,b'], [''], ['ü'], [['a', '(']]])('%j is a SyntaxError', given => {
    expect(() => new (make().TokenWebSocket)('ws://host/', given)).toThrow(
      expect.objectContaining({ name: 'SyntaxError' }) as Error
    );
  });

  it('the application sees what it asked for, and nothing of ours', async () => {
    for (const [asked, answered, seen] of [
      [[KERNEL], KERNEL, KERNEL],
      [[], MARKER, ''],
      [['mqtt'], '', ''],
      [[REASON_MARKER], REASON_MARKER, REASON_MARKER]
    ] as const) {
      const socket = new (make().TokenWebSocket)(URL_OF_KERNEL, [...asked]);
      expect(socket.protocol).toBe('');
      (await carrier()).open(answered);
      await turn(150);
      expect([socket.readyState, socket.protocol]).toEqual([1, seen]);
    }
  });

  it('a foreign server’s answer is shown as it is', async () => {
    const socket = new (make().TokenWebSocket)('ws://elsewhere/', [MARKER]);
    (await carrier()).open(MARKER);
    expect(socket.protocol).toBe(MARKER);
  });
});

describe('opening', () => {
  it('is at once where the subprotocol proves it', async () => {
    const { TokenWebSocket } = make();
    const socket = new TokenWebSocket(URL_OF_KERNEL, KERNEL);
    const list = heard(socket);
    expect(socket.readyState).toBe(0);
    const native = await carrier();
    native.extensions = 'permessage-deflate';
    native.open(KERNEL);
    expect([socket.readyState, socket.extensions, list]).toEqual([1, 'permessage-deflate', ['open']]);
    expect(events).toEqual([{ kind: 'open', path: 'api/kernels/1/channels' }]);
  });

  it('is held back where it may be a refusal, until time has passed', async () => {
    const socket = new (make({ cookies: true }).TokenWebSocket)(URL_OF_KERNEL);
    const list = heard(socket);
    (await carrier()).open(REASON_MARKER);
    await turn(149);
    expect([socket.readyState, list]).toEqual([0, []]);
    await turn(1);
    expect([socket.readyState, list]).toEqual([1, ['open']]);
  });

  it('is told by the first message, which waits for who awaits the opening', async () => {
    const socket = new (make({ cookies: true }).TokenWebSocket)(URL_OF_KERNEL);
    const got: unknown[] = [];
    const awaited = new Promise(resolve => (socket.onopen = resolve)).then(() => {
      socket.onmessage = event => got.push(event.data);
    });
    const native = await carrier();
    native.open(REASON_MARKER);
    native.message('1');
    native.message('2');
    expect([socket.readyState, got]).toEqual([1, []]);
    await awaited;
    await turn();
    native.message('3');
    expect(got).toEqual(['1', '2', '3']);
    await turn(1000);
    expect(got).toEqual(['1', '2', '3']);
  });

  it('and an end right behind the first message keep their order', async () => {
    const socket = new (make({ cookies: true }).TokenWebSocket)(URL_OF_KERNEL);
    const list = heard(socket);
    const native = await carrier();
    native.open(REASON_MARKER);
    native.message('1');
    native.end(1000, 'bye');
    expect(list).toEqual(['open']);
    await turn();
    expect(list).toEqual(['open', '1', [1000, 'bye', true]]);
  });

  it('leaves no timer when it was a refusal', async () => {
    const socket = new (make({ cookies: true, token: () => '' }).TokenWebSocket)(URL_OF_KERNEL);
    const list = heard(socket);
    const native = await carrier();
    native.open(REASON_MARKER);
    native.end(4403, 'forbidden: no');
    await turn();
    expect([vi.getTimerCount(), list]).toEqual([0, ['error', [4403, 'forbidden: no', false]]]);
  });
});

describe('messages', () => {
  it('come with data and origin', async () => {
    const [socket, native] = await opened();
    const got = vi.fn();
    socket.onmessage = got;
    native.message('hello', 'ws://host');
    const event = got.mock.calls[0]?.[0] as MessageEvent;
    expect(event).toBeInstanceOf(MessageEvent);
    expect([event.data, event.origin, event.lastEventId, event.target]).toEqual([
      'hello',
      'ws://host',
      '',
      socket
    ]);
  });

  it('do not come after close()', async () => {
    const [socket, native] = await opened();
    const list = heard(socket);
    socket.close();
    native.message('late');
    native.end(1000);
    native.message('later');
    expect(list).toEqual([[1000, '', true]]);
  });
});

describe('binaryType', () => {
  it('is blob, takes arraybuffer, and nothing else', async () => {
    const [socket, native] = await opened();
    expect([socket.binaryType, native.binaryType]).toEqual(['blob', 'blob']);
    socket.binaryType = 'arraybuffer';
    expect([socket.binaryType, native.binaryType]).toEqual(['arraybuffer', 'arraybuffer']);
    socket.binaryType = 'nodebuffer' as BinaryType;
    expect(socket.binaryType).toBe('arraybuffer');
  });

  it('may be set before there is a carrier, and before it is open', async () => {
    const socket = new (make().TokenWebSocket)(URL_OF_KERNEL, KERNEL);
    socket.binaryType = 'arraybuffer';
    const native = await carrier();
    socket.binaryType = 'blob';
    socket.binaryType = 'arraybuffer';
    native.open(KERNEL);
    expect(native.binaryType).toBe('arraybuffer');
  });

  it.each<[BinaryType, unknown]>([
    ['arraybuffer', ArrayBuffer],
    ['blob', Blob]
  ])('%s set in the open event holds for the message that opened it', async (type, kind) => {
    const socket = new (make({ cookies: true }).TokenWebSocket)(URL_OF_KERNEL);
    const list = heard(socket);
    socket.onopen = () => (socket.binaryType = type);
    const native = await carrier();
    native.open(REASON_MARKER);
    expect(native.binaryType).toBe('arraybuffer');
    native.message(new ArrayBuffer(3));
    await turn();
    expect(list[1]).toBeInstanceOf(kind as typeof Blob);
  });
});

describe('send', () => {
  it('throws while connecting', () => {
    const socket = new (make().TokenWebSocket)(URL_OF_KERNEL);
    expect(() => socket.send('x')).toThrow(expect.objectContaining({ name: 'InvalidStateError' }) as Error);
  });

  it('hands everything over while open', async () => {
    const [socket, native] = await opened();
    const data = ['x', new ArrayBuffer(1), new Uint8Array(2), new Blob(['abc'])];
    data.forEach(one => socket.send(one));
    expect(native.sent).toEqual(data);
    native.bufferedAmount = 7;
    expect(socket.bufferedAmount).toBe(7);
  });

  it('counts what is lost after the end, for ever', async () => {
    const [socket, native] = await opened();
    native.bufferedAmount = 10;
    socket.close();
    socket.send('é');
    socket.send(new ArrayBuffer(3));
    socket.send(new Uint8Array(4));
    expect(socket.bufferedAmount).toBe(19);
    native.end(1000);
    socket.send(new Blob(['abcde']));
    socket.send(12 as unknown as string);
    expect(socket.bufferedAmount).toBe(26);
    expect(native.sent).toEqual([]);
  });
});

describe('close', () => {
  it.each([0, 999, 1001, 1005, 1006, 2999, 5000, NaN, -1])('code %d is an InvalidAccessError', async code => {
    const [socket] = await opened();
    expect(() => socket.close(code)).toThrow(
      expect.objectContaining({ name: 'InvalidAccessError' }) as Error
    );
    expect(socket.readyState).toBe(1);
  });

  it('a reason of more than 123 bytes is a SyntaxError, in every state', async () => {
    const [socket, native] = await opened();
    const tooLong = expect.objectContaining({ name: 'SyntaxError' }) as Error;
    expect(() => socket.close(1000, 'é'.repeat(62))).toThrow(tooLong);
    socket.close(1000, `${'é'.repeat(61)}x`);
    expect(native.closes).toEqual([[1000, `${'é'.repeat(61)}x`]]);
    expect(() => socket.close(1000, 'x'.repeat(124))).toThrow(tooLong);
  });

  it('of an open socket waits for the peer', async () => {
    const [socket, native] = await opened();
    const list = heard(socket);
    socket.close(3001, 'enough');
    socket.close(3002, 'again');
    expect([socket.readyState, native.closes, list]).toEqual([2, [[3001, 'enough']], []]);
    native.end(3001, 'enough');
    expect([socket.readyState, list]).toEqual([3, [[3001, 'enough', true]]]);
    socket.close();
    await turn(1000);
    expect(list).toHaveLength(1);
  });

  it('before there is a carrier: none is made, error and close come later', async () => {
    const socket = new (make().TokenWebSocket)(URL_OF_KERNEL);
    const list = heard(socket);
    socket.close();
    expect([socket.readyState, list]).toEqual([2, []]);
    await turn();
    expect([socket.readyState, list, carriers]).toEqual([3, ['error', [1006, '', false]], []]);
  });

  it('while the carrier connects', async () => {
    const socket = new (make().TokenWebSocket)(URL_OF_KERNEL);
    const list = heard(socket);
    const native = await carrier();
    socket.close();
    expect(native.closes).toEqual([[]]);
    native.open(KERNEL);
    native.message('x');
    await turn();
    native.end(1006, '', false);
    expect([socket.readyState, list]).toEqual([3, ['error', [1006, '', false]]]);
    expect(events).toEqual([{ kind: 'abandoned', path: 'api/kernels/1/channels' }]);
  });

  it('while the opening is held back', async () => {
    const socket = new (make({ cookies: true }).TokenWebSocket)(URL_OF_KERNEL);
    const list = heard(socket);
    const native = await carrier();
    native.open(REASON_MARKER);
    socket.close();
    native.end(4403, 'token_rejected');
    await turn(1000);
    expect(list).toEqual(['error', [4403, 'token_rejected', false]]);
    expect([carriers.length, events.map(event => event.kind)]).toEqual([1, ['abandoned']]);
  });

  it('inside the open event', async () => {
    const socket = new (make().TokenWebSocket)(URL_OF_KERNEL, KERNEL);
    const list = heard(socket);
    socket.onopen = () => socket.close();
    const native = await carrier();
    native.open(KERNEL);
    native.message('x');
    native.end(1005);
    expect(list).toEqual(['open', [1005, '', true]]);
  });

  it('of the peer is seen in readyState before the event', async () => {
    const [socket, native] = await opened();
    native.readyState = 2;
    expect(socket.readyState).toBe(2);
    native.readyState = 3;
    expect(socket.readyState).toBe(2);
    native.end(1001);
    expect(socket.readyState).toBe(3);
  });

  it('a failure is told by error first, when the socket is closed already', async () => {
    const [socket, native] = await opened();
    const states: unknown[] = [];
    socket.onerror = event => states.push([event.type, socket.readyState]);
    socket.onclose = event => states.push([event.type, socket.readyState, event.code, event.wasClean]);
    native.end(1006, '', false);
    expect(states).toEqual([
      ['error', 3],
      ['close', 3, 1006, false]
    ]);
  });

  it('without failure has no error event, even where it was not clean', async () => {
    const [socket, native] = await opened();
    const list = heard(socket);
    native.onclose?.(new CloseEvent('close', { code: 1006, reason: '', wasClean: false }));
    expect(list).toEqual([[1006, '', false]]);
  });
});

describe('event handler attributes', () => {
  it('are null at first, keep their place when replaced and lose it when taken away', async () => {
    const [socket, native] = await opened();
    const order: string[] = [];
    expect([socket.onopen, socket.onmessage, socket.onerror, socket.onclose]).toEqual([
      null,
      null,
      null,
      null
    ]);
    const a = (): unknown => order.push('a');
    const b = (): unknown => order.push('b');
    socket.onmessage = a;
    expect(socket.onmessage).toBe(a);
    socket.addEventListener('message', () => order.push('listener'));
    socket.onmessage = b;
    native.message('');
    socket.onmessage = null;
    native.message('');
    socket.onmessage = a;
    native.message('');
    expect(order).toEqual(['b', 'listener', 'listener', 'listener', 'a']);
  });

  it('are called with the socket as this and target; what is no function is null', async () => {
    const [socket, native] = await opened();
    let seen: unknown;
    socket.onmessage = function (event) {
      seen = [this, event.target];
    };
    native.message('');
    expect(seen).toEqual([socket, socket]);
    socket.onmessage = 'x' as unknown as null;
    expect(socket.onmessage).toBeNull();
  });

  it('listeners may be once, removed, or objects', async () => {
    const [socket, native] = await opened();
    const calls: string[] = [];
    const removed = (): unknown => calls.push('removed');
    socket.addEventListener('message', { handleEvent: () => calls.push('object') });
    socket.addEventListener('message', () => calls.push('once'), { once: true });
    socket.addEventListener('message', removed);
    socket.removeEventListener('message', removed);
    native.message('');
    native.message('');
    expect(calls).toEqual(['object', 'once', 'object']);
  });
});

describe('where the token goes', () => {
  it('C2.9 as subprotocol, behind what the application asked for', async () => {
    new (make().TokenWebSocket)(`${URL_OF_KERNEL}?session_id=1&token=${SECRET}`, KERNEL);
    const native = await carrier();
    expect(native.address).toBe(`${URL_OF_KERNEL}?session_id=1`);
    expect(native.protocols).toEqual([KERNEL, MARKER, `${MARKER}.${SECRET}`, REASON_MARKER]);
  });

  it('the cookie goes first where the page has one', async () => {
    new (make({ cookies: true }).TokenWebSocket)(URL_OF_KERNEL, KERNEL);
    expect((await carrier()).protocols).toEqual([KERNEL, REASON_MARKER]);
  });

  it.each([
    ['another host', 'ws://elsewhere/ann/api/kernels/1/channels'],
    ['another user of the host', 'ws://host/bob/api/kernels/1/channels'],
    ['a proxied application', `${BASE}proxy/8000/ws`]
  ])('C2.9 not to %s', async (_what, url) => {
    const socket = new (make().TokenWebSocket)(`${url}?token=${SECRET}`, 'mqtt');
    const native = await carrier();
    expect([native.address, native.protocols]).toEqual([url, ['mqtt']]);
    native.open('mqtt');
    native.end(4403, 'forbidden');
    expect([socket.readyState, socket.protocol, events]).toEqual([3, 'mqtt', []]);
  });

  it('C2.9 into the URL for a server without capabilities, with one warning, and not into url', async () => {
    const said = vi.spyOn(console, 'warn').mockImplementation(() => undefined);
    const { TokenWebSocket } = make({ fetch: stock, capabilities: undefined as never });
    const socket = new TokenWebSocket(URL_OF_KERNEL, KERNEL);
    const native = await carrier();
    expect([native.address, native.protocols]).toEqual([`${URL_OF_KERNEL}?token=${SECRET}`, [KERNEL]]);
    expect(socket.url).toBe(URL_OF_KERNEL);
    new TokenWebSocket(URL_OF_KERNEL, KERNEL);
    await carrier();
    expect(said).toHaveBeenCalledOnce();
    expect(String(said.mock.calls[0])).not.toContain(SECRET);
  });

  it.each([
    ['api/collaboration/room/json:notebook:1', true, null, true],
    ['lsp/ws/pylsp', true, null, true],
    ['proxy/8000/ws', true, null, true],
    ['api/kernels/1/channels', true, null, true],
    ['lsp/ws/pylsp', false, null, false],
    ['api/kernels/1/channels', false, null, false],
    ['lsp/ws/pylsp', true, undefined, false],
    ['proxy/8000/ws', true, CAPABILITIES, false],
    ['api/kernels/1/channels', true, CAPABILITIES, false]
  ])('%s with our token in it, allowed %s, capabilities %j: goes out as given: %s', async (...given) => {
    const [path, allowTokenInUrl, capabilities, expected] = given;
    vi.spyOn(console, 'warn').mockImplementation(() => undefined);
    const fetch = (address: unknown): Promise<Response> =>
      capabilities === undefined
        ? Promise.reject(new TypeError('no answer'))
        : capabilities
          ? Promise.resolve(Response.json(capabilities))
          : stock(address);
    for (const cookies of [false, true]) {
      const made = make({ fetch, capabilities: undefined as never, allowTokenInUrl, cookies });
      const socket = new made.TokenWebSocket(`${BASE}${path}?token=${SECRET}&sessionId=1`);
      const { address } = await carrier();
      expect([address.includes(SECRET), socket.url]).toEqual([expected, `${BASE}${path}?sessionId=1`]);
      expect(address).toBe(`${BASE}${path}?${expected ? `token=${SECRET}&` : ''}sessionId=1`);
    }
  });

  it.each([null, CAPABILITIES])('another token of the application’s stays: %j', async capabilities => {
    const fetch = (address: unknown): Promise<Response> =>
      capabilities ? Promise.resolve(Response.json(capabilities)) : stock(address);
    const { TokenWebSocket } = make({ fetch, capabilities: undefined as never });
    new TokenWebSocket(`${BASE}proxy/8000/ws?token=theirs`);
    expect((await carrier()).address).toBe(`${BASE}proxy/8000/ws?token=theirs`);
  });

  it('C2.9 not into the URL where the user does not allow it', async () => {
    const options = { fetch: stock, capabilities: undefined as never, allowTokenInUrl: false };
    new (make(options).TokenWebSocket)(URL_OF_KERNEL);
    expect((await carrier()).address).toBe(URL_OF_KERNEL);
  });

  it('not into the URL for the cookie’s turn', async () => {
    new (make({ fetch: stock, capabilities: undefined as never, cookies: true }).TokenWebSocket)(
      URL_OF_KERNEL
    );
    expect((await carrier()).address).toBe(URL_OF_KERNEL);
  });

  it('C2.9 never into the URL where the preflight failed', async () => {
    const { TokenWebSocket } = make({ capabilities: undefined as never });
    new TokenWebSocket(URL_OF_KERNEL, KERNEL);
    const native = await carrier();
    expect(native.address).toBe(URL_OF_KERNEL);
    expect(native.protocols).toContain(`${MARKER}.${SECRET}`);
  });

  it('a cookie goes without the reason marker where the preflight failed', async () => {
    new (make({ capabilities: undefined as never, cookies: true }).TokenWebSocket)(URL_OF_KERNEL, KERNEL);
    expect((await carrier()).protocols).toEqual([KERNEL]);
  });

  it('the token is asked for anew each time', async () => {
    let token = 'one';
    const { TokenWebSocket } = make({ token: () => token });
    new TokenWebSocket(URL_OF_KERNEL);
    expect((await carrier()).protocols).toContain(`${MARKER}.one`);
    token = 'two';
    new TokenWebSocket(URL_OF_KERNEL);
    expect((await carrier()).protocols).toContain(`${MARKER}.two`);
  });

  it('by another carrier, which sees our own sockets only', async () => {
    const other: FakeCarrier[] = [];
    const { TokenWebSocket } = make({
      carrier: (address, protocols) => {
        const one = new FakeCarrier(address, protocols);
        other.push(one);
        return one;
      }
    });
    new TokenWebSocket(URL_OF_KERNEL);
    new TokenWebSocket('ws://elsewhere/');
    await turn();
    expect([other.map(one => one.address), carriers.map(one => one.address)]).toEqual([
      [URL_OF_KERNEL],
      ['ws://elsewhere/']
    ]);
  });
});

describe('what cannot be tried', () => {
  it.each([
    ['ours', URL_OF_KERNEL, ['not_attempted']],
    ['foreign', 'ws://elsewhere/', []]
  ])('a constructor that throws becomes error and close (%s)', async (_what, url, causes) => {
    const { TokenWebSocket } = make({
      WebSocket: class extends FakeCarrier {
        constructor(address: string, protocols: string[]) {
          super(address, protocols);
          throw new DOMException(`mixed content: ${address} ${String(protocols)}`, 'SecurityError');
        }
      }
    });
    const list = heard(new TokenWebSocket(url));
    await turn();
    expect(list).toEqual(['error', [1006, '', false]]);
    expect(events.map(event => event.kind === 'unexplained' && event.cause)).toEqual(causes);
  });

  it.each<[string, Partial<ConnectionOptions>]>([
    ['a token that is no Unicode', { token: () => '\ud800' }],
    ['a document that is none', { capabilities: { ...CAPABILITIES, sockets: 7 } as never }]
  ])('%s: as without us', async (_what, options) => {
    const said = vi.spyOn(console, 'error').mockImplementation(() => undefined);
    const list = heard(new (make(options).TokenWebSocket)(`${URL_OF_KERNEL}?a=1`, KERNEL));
    const native = await carrier();
    expect([native.address, native.protocols]).toEqual([`${URL_OF_KERNEL}?a=1`, [KERNEL]]);
    native.open(KERNEL);
    expect([list, said.mock.calls.length]).toEqual([['open'], 1]);
  });

  it('a carrier that fails at once becomes error and close, and is not made twice', async () => {
    let made = 0;
    const carrier = (address: string, protocols: readonly string[]): FakeCarrier => {
      made += 1;
      return Object.freeze(new FakeCarrier(address, protocols));
    };
    const list = heard(new (make({ carrier }).TokenWebSocket)(URL_OF_KERNEL));
    await turn();
    expect([made, carriers.length, list]).toEqual([1, 0, ['error', [1006, '', false]]]);
  });

  it('what fails of ours when a handshake was made becomes error and close', async () => {
    let token = SECRET;
    const list = heard(new (make({ cookies: true, token: () => token }).TokenWebSocket)(URL_OF_KERNEL));
    const native = await carrier();
    token = '\ud800';
    native.open(REASON_MARKER);
    native.end(4401, 'credentials_missing');
    await turn();
    expect([carriers.length, list]).toEqual([1, ['error', [1006, '', false]]]);
  });

  it('an error after the application left is not told twice', async () => {
    vi.spyOn(console, 'error').mockImplementation(() => undefined);
    const socket = new (make({ token: () => '\ud800' }).TokenWebSocket)(URL_OF_KERNEL);
    const list = heard(socket);
    socket.close();
    await turn();
    expect(list).toEqual(['error', [1006, '', false]]);
  });
});

describe('refusals', () => {
  it('the token follows the cookie inside one socket', async () => {
    const socket = new (make({ cookies: true }).TokenWebSocket)(URL_OF_KERNEL, KERNEL);
    const list = heard(socket);
    const first = await carrier();
    first.open(REASON_MARKER);
    first.end(4401, 'credentials_missing: sign in first');
    const second = await carrier();
    expect(second.protocols).toContain(`${MARKER}.${SECRET}`);
    second.open(KERNEL);
    expect([carriers.length, list]).toEqual([2, ['open']]);
  });

  it('the application may leave between two attempts', async () => {
    const socket = new (make({ cookies: true }).TokenWebSocket)(URL_OF_KERNEL, KERNEL);
    const list = heard(socket);
    const first = await carrier();
    first.open(REASON_MARKER);
    first.end(4401, 'credentials_missing');
    socket.close();
    await turn(1000);
    expect([carriers.length, list]).toEqual([1, ['error', [1006, '', false]]]);
  });

  it('both refused: the end has the reason, the next socket waits for the user', async () => {
    const { connections, TokenWebSocket } = make();
    const list = heard(new TokenWebSocket(URL_OF_KERNEL, KERNEL));
    for (let attempt = 0; attempt < 2; attempt++) {
      const native = await carrier();
      native.open(REASON_MARKER);
      native.end(4403, 'token_rejected: no');
    }
    await turn();
    expect(list).toEqual(['error', [4403, 'token_rejected: no', false]]);
    expect(events.map(event => event.kind)).toEqual(['refused', 'refused', 'parked']);

    const next = new TokenWebSocket(URL_OF_KERNEL, KERNEL);
    await turn(3_600_000);
    expect([next.readyState, carriers.length]).toEqual([0, 2]);
    connections.release();
    (await carrier()).open(KERNEL);
    expect([next.readyState, carriers.length]).toEqual([1, 3]);
  });

  it('a socket made while another was refused waits as well', async () => {
    let answer = (_: Response): void => undefined;
    const fetch = (): Promise<Response> => new Promise(resolve => (answer = resolve));
    const { connections, TokenWebSocket } = make({ fetch, capabilities: undefined as never });
    const socket = new TokenWebSocket(URL_OF_KERNEL, KERNEL);
    await turn();
    connections.state('api/kernels/1/channels').park(parseClose(4404, 'not_found') as Closed);
    answer(Response.json(CAPABILITIES));
    await turn(1000);
    expect([carriers.length, socket.readyState]).toEqual([0, 0]);
    connections.release();
    expect((await carrier()).protocols).toContain(KERNEL);
  });

  it('a parked socket can be given up', async () => {
    const { connections, TokenWebSocket } = make();
    const native = new TokenWebSocket(URL_OF_KERNEL, KERNEL) && (await carrier());
    native.open(REASON_MARKER);
    native.end(4404, 'not_found');
    const parked = new TokenWebSocket(URL_OF_KERNEL, KERNEL);
    const list = heard(parked);
    await turn(1000);
    parked.close();
    await turn();
    connections.release();
    await turn(1000);
    expect([parked.readyState, list, carriers.length]).toEqual([3, ['error', [1006, '', false]], 1]);
  });

  it('C3 retry waits, and an accept that is closed again does not begin from the start', async () => {
    vi.spyOn(Math, 'random').mockReturnValue(0.5);
    const { TokenWebSocket } = make();
    const waits: number[] = [];
    for (let attempt = 1; attempt <= 5; attempt++) {
      new TokenWebSocket(URL_OF_KERNEL, KERNEL);
      const begun = performance.now();
      while (carriers.length < attempt) {
        await turn(10);
      }
      waits.push(Math.round((performance.now() - begun) / 100) / 10);
      carriers[attempt - 1]?.open(KERNEL);
      await turn(1000);
      carriers[attempt - 1]?.end(4500, 'internal_error');
    }
    expect(waits).toEqual([0, 0.5, 1, 2, 4]);
    const told = events.map(event => (event.kind === 'waiting' ? Math.round(event.seconds * 10) / 10 : null));
    expect(told.filter(seconds => seconds !== null)).toEqual([0.5, 1, 2, 4, 8]);
  });

  it.each([1006, 1000])('opening and ending without a reason (%d) is free once, and no storm', async code => {
    vi.spyOn(Math, 'random').mockReturnValue(0.5);
    const { connections, TokenWebSocket } = make();
    const begun = performance.now();
    const attempts: number[] = [];
    const connect = (): void => {
      new TokenWebSocket(URL_OF_KERNEL, KERNEL).onclose = connect;
    };
    connect();
    while (performance.now() - begun < 20_000) {
      const native = await carrier();
      if (native.readyState === 0) {
        attempts.push(Math.round((performance.now() - begun) / 100) / 10);
        native.open(KERNEL);
        native.end(code, '', code === 1000);
      }
      await turn(10);
    }
    expect(attempts).toEqual([0, 0, 0.5, 1.5, 3.5, 7.5, 15.5]);
    await turn(20_000);
    const native = await carrier();
    native.open(KERNEL);
    await turn(10_001);
    native.end(1006, '', false);
    expect(kept(connections)).toBe(0);
    const last = carriers.length;
    await turn();
    expect(carriers.length).toBe(last + 1);
  });

  it('and ends that the application wants are free', async () => {
    const { connections, TokenWebSocket } = make();
    for (let times = 0; times < 5; times++) {
      const socket = new TokenWebSocket(URL_OF_KERNEL, KERNEL);
      const native = await carrier();
      native.open(KERNEL);
      socket.close();
      native.end(1000);
    }
    expect([carriers.length, kept(connections)]).toEqual([5, 0]);
  });

  it('health forgets failures', async () => {
    const { connections, TokenWebSocket } = make();
    new TokenWebSocket(URL_OF_KERNEL, KERNEL);
    const native = await carrier();
    connections.state('api/kernels/1/channels').failures = 5;
    native.open(KERNEL);
    await turn(10_000);
    native.end(1001);
    expect(connections.state('api/kernels/1/channels').failures).toBe(0);
  });

  it('an open socket that loses its credential ends; the next one shows the other', async () => {
    const { TokenWebSocket } = make();
    const socket = new TokenWebSocket(URL_OF_KERNEL, KERNEL);
    const list = heard(socket);
    const native = await carrier();
    native.open(KERNEL);
    native.end(4401, 'token_revoked');
    expect(list).toEqual(['open', [4401, 'token_revoked', true]]);
    new TokenWebSocket(URL_OF_KERNEL, KERNEL);
    expect((await carrier()).protocols).toEqual([KERNEL, REASON_MARKER]);
  });

  it('after a ticket has expired the next socket shows the new one', async () => {
    let token = 'one';
    const { TokenWebSocket } = make({ token: () => token });
    new TokenWebSocket(URL_OF_KERNEL, KERNEL);
    const native = await carrier();
    native.open(KERNEL);
    token = 'two'; // a moment too late for the one that is open
    native.end(4401, 'token_expired');
    new TokenWebSocket(URL_OF_KERNEL, KERNEL);
    expect((await carrier()).protocols).toContain(`${MARKER}.two`);
  });

  it('what the server says to a socket that was left does not park', async () => {
    const { connections } = make();
    const socket = new (tokenWebSocket(connections))(URL_OF_KERNEL, KERNEL);
    const native = await carrier();
    native.open(KERNEL);
    socket.close();
    native.end(4409, 'replaced');
    expect([connections.parked().size, events.map(event => event.kind)]).toEqual([0, ['open', 'closed']]);
  });

  it('1006 before the opening is explained, after it is not', async () => {
    const { TokenWebSocket } = make();
    new TokenWebSocket(URL_OF_KERNEL, KERNEL);
    (await carrier()).end(1006, '', false);
    await turn();
    expect(events).toEqual([{ kind: 'unexplained', path: 'api/kernels/1/channels', cause: 'server_down' }]);
    new TokenWebSocket(URL_OF_KERNEL, KERNEL);
    const native = await carrier();
    native.open(KERNEL);
    native.end(1006, '', false);
    await turn();
    expect(events.map(event => event.kind)).toEqual(['unexplained', 'open', 'closed']);
  });
});

describe('patience', () => {
  const PATIENT = { patient: true, cookies: true };

  function answering(how: (path: string, init: RequestInit) => Response | null): typeof fetch {
    return (address, init) => {
      const answer = how(new URL(String(address)).pathname.replace('/ann/', ''), init ?? {});
      return answer ? Promise.resolve(answer) : Promise.reject(new TypeError('nothing answers'));
    };
  }

  async function refuse(reason: string, code: number): Promise<void> {
    const native = await carrier();
    native.open(REASON_MARKER);
    native.end(code, reason);
    await turn();
  }

  it('both refused: the socket itself stays until the user acted', async () => {
    const { connections, TokenWebSocket } = make(PATIENT);
    const socket = new TokenWebSocket(URL_OF_KERNEL, KERNEL);
    const list = heard(socket);
    await refuse('credentials_missing', 4401);
    await refuse('token_rejected', 4403);
    await turn(3_600_000);
    expect([socket.readyState, list, carriers.length]).toEqual([0, [], 2]);
    expect(events.map(event => event.kind)).toEqual(['refused', 'refused', 'parked']);
    connections.release();
    const native = await carrier();
    expect(native.protocols).toEqual([KERNEL, REASON_MARKER]);
    native.open(KERNEL);
    expect([list, carriers.length]).toEqual([['open'], 3]);
  });

  it('may be given up while parked', async () => {
    const { connections, TokenWebSocket } = make(PATIENT);
    const socket = new TokenWebSocket(URL_OF_KERNEL, KERNEL);
    const list = heard(socket);
    await refuse('credentials_missing', 4401);
    await refuse('token_rejected', 4403);
    socket.close();
    await turn(1000);
    connections.release();
    await turn(1000);
    expect([list, carriers.length]).toEqual([['error', [1006, '', false]], 2]);
  });

  it('the path of the last socket that was given up is told, and nothing is kept of its parking', async () => {
    vi.spyOn(Math, 'random').mockReturnValue(0.5);
    const { connections, TokenWebSocket } = make(PATIENT);
    const sockets = [new TokenWebSocket(URL_OF_KERNEL, KERNEL)];
    await refuse('credentials_missing', 4401);
    await refuse('token_rejected', 4403);
    sockets.push(new TokenWebSocket(URL_OF_KERNEL, KERNEL), new TokenWebSocket('ws://elsewhere/'));
    await turn();
    events = [];
    sockets[0]?.close();
    expect([events, connections.parked().size]).toEqual([[], 1]);
    sockets[2]?.close();
    sockets[1]?.close();
    sockets[1]?.close();
    await turn(1000);
    expect(events).toEqual([{ kind: 'abandoned', path: 'api/kernels/1/channels' }]);
    expect(connections.parked().size).toBe(0);
    // Who comes next begins with both credentials; who does so for ever, more and more seldom.
    const before = carriers.length;
    new TokenWebSocket(URL_OF_KERNEL, KERNEL);
    await turn(600);
    expect([carriers.length, carriers[before]?.protocols]).toEqual([before + 1, [KERNEL, REASON_MARKER]]);
  });

  it('what was given up is neither explained nor asked about any more', async () => {
    let answer = (): void => undefined;
    const asked: string[] = [];
    const fetch: typeof globalThis.fetch = address => {
      asked.push(String(address));
      return new Promise((_, reject) => (answer = () => reject(new TypeError('nothing answers'))));
    };
    const socket = new (make({ ...PATIENT, fetch }).TokenWebSocket)(URL_OF_KERNEL, KERNEL);
    (await carrier()).end(1006, '', false);
    await turn();
    socket.close();
    answer();
    await turn();
    answer();
    await turn(60_000);
    expect([asked.length, events.map(event => event.kind)]).toEqual([2, ['abandoned']]);
  });

  it('what cannot help ends the socket', async () => {
    const list = heard(new (make(PATIENT).TokenWebSocket)(URL_OF_KERNEL, KERNEL));
    await refuse('not_found', 4404);
    expect(list).toEqual(['error', [4404, 'not_found', false]]);
  });

  it('an open socket ends whatever the advice', async () => {
    const [socket, native] = await opened(PATIENT);
    const list = heard(socket);
    native.end(4503, 'draining;retry_after=1');
    expect(list).toEqual([[4503, 'draining;retry_after=1', true]]);
    expect(events.map(event => event.kind)).toEqual(['open', 'refused', 'waiting', 'closed']);
  });

  it('waits as long as it is told, and tries by itself', async () => {
    vi.spyOn(Math, 'random').mockReturnValue(0);
    const socket = new (make(PATIENT).TokenWebSocket)(URL_OF_KERNEL, KERNEL);
    const list = heard(socket);
    await refuse('too_many_attempts;retry_after=30', 4429);
    await turn(29_000);
    expect(carriers.length).toBe(1);
    await turn(1100);
    expect(carriers.length).toBe(2);
    (await carrier()).open(KERNEL);
    expect(list).toEqual(['open']);
  });

  it('two sockets of a path make no more attempts than one, once a socket was lost', async () => {
    const made = make(PATIENT);
    const [first, second] = [0, 1].map(() => new made.TokenWebSocket(URL_OF_KERNEL, KERNEL));
    await turn();
    expect(carriers.length).toBe(2);
    for (const native of [...carriers]) {
      native.open(KERNEL);
      native.end(1006, '', false);
    }
    await turn();
    const again = [0, 1].map(() => new made.TokenWebSocket(URL_OF_KERNEL, KERNEL));
    await turn();
    expect(carriers.length).toBe(3);
    await refuse('credentials_missing', 4401);
    await refuse('token_rejected', 4403);
    await turn(30_000);
    expect([carriers.length, again.map(socket => socket.readyState)]).toEqual([4, [0, 0]]);
    made.connections.release();
    (await carrier()).open(KERNEL);
    await turn();
    (await carrier()).open(KERNEL);
    expect([first, second, ...again].map(socket => socket?.readyState)).toEqual([3, 3, 1, 1]);
  });

  it('a server that is down is waited for, by one question for all, and then both credentials are tried', async () => {
    let up = false;
    const fetch = answering(() => (up ? Response.json(CAPABILITIES) : null));
    const socket = new (make({ ...PATIENT, fetch }).TokenWebSocket)(URL_OF_KERNEL, KERNEL);
    const list = heard(socket);
    (await carrier()).end(1006, '', false);
    await turn(60_000);
    expect([carriers.length, events.length]).toEqual([1, 1]);
    expect(events[0]).toMatchObject({ kind: 'unexplained', cause: 'server_down' });
    up = true;
    await turn(15_000);
    expect(carriers.length).toBe(2);
    await refuse('credentials_missing', 4401);
    (await carrier()).open(KERNEL);
    expect([list, carriers.length]).toEqual([['open'], 3]);
  });

  it('a refusal without words tries the other credential, and parks where REST refuses that as well', async () => {
    const fetch = answering(path =>
      path === 'api/me' ? new Response('', { status: 403 }) : Response.json(CAPABILITIES)
    );
    const { connections, TokenWebSocket } = make({ ...PATIENT, fetch });
    const socket = new TokenWebSocket(URL_OF_KERNEL, KERNEL);
    (await carrier()).end(1006, '', false);
    await turn();
    expect((await carrier()).protocols).toContain(`${MARKER}.${SECRET}`);
    (await carrier()).end(1006, '', false);
    await turn(30_000);
    expect([carriers.length, socket.readyState]).toEqual([2, 0]);
    expect(events.map(event => event.kind)).toEqual(['unexplained', 'unexplained', 'parked']);
    expect([...connections.parked().values()]).toEqual([parseClose(4401, 'credentials_missing')]);
  });

  it('without a token the cookie is all there is', async () => {
    const fetch = answering(path =>
      path === 'api/me' ? new Response('', { status: 403 }) : Response.json(CAPABILITIES)
    );
    new (make({ ...PATIENT, token: () => '', fetch }).TokenWebSocket)(URL_OF_KERNEL, KERNEL);
    (await carrier()).end(1006, '', false);
    await turn(30_000);
    expect([carriers.length, events.map(event => event.kind)]).toEqual([1, ['unexplained', 'parked']]);
  });

  describe('a handshake that is never answered', () => {
    const reachable = answering(() => Response.json(CAPABILITIES));
    const causes = (): unknown[][] => events.map(event => [event.kind, 'cause' in event && event.cause]);

    it('is told and given up where nothing gets through, and begun anew with more patience', async () => {
      vi.spyOn(Math, 'random').mockReturnValue(0.5);
      const socket = new (make({ ...PATIENT, fetch: reachable }).TokenWebSocket)(URL_OF_KERNEL, KERNEL);
      const native = await carrier();
      await turn(4_900);
      expect([causes(), native.closes]).toEqual([[], []]);
      await turn(200);
      expect([causes(), native.closes]).toEqual([[['unexplained', 'websockets_blocked']], [[]]]);
      native.end(1006, '', false);
      await turn(1_000);
      const second = await carrier();
      expect(carriers.length).toBe(2);
      await turn(9_000);
      expect(second.closes).toEqual([]);
      await turn(1_100);
      expect([second.closes, socket.readyState]).toEqual([[[]], 0]);
    });

    it('goes on where others get through: a kernel may take long to start', async () => {
      const { TokenWebSocket } = make({ ...PATIENT, fetch: reachable });
      new TokenWebSocket(`${BASE}api/events/subscribe`);
      (await carrier()).open(MARKER);
      const socket = new TokenWebSocket(URL_OF_KERNEL, KERNEL);
      const native = await carrier();
      await turn(60_000);
      expect([causes().slice(1), native.closes]).toEqual([[['unexplained', 'unknown']], []]);
      native.open(KERNEL);
      expect(socket.readyState).toBe(1);
    });

    it('is left to an application that reconnects by itself, but told', async () => {
      new (make({ fetch: reachable }).TokenWebSocket)(URL_OF_KERNEL, KERNEL);
      const native = await carrier();
      await turn(6_000);
      expect([causes(), native.closes]).toEqual([[['unexplained', 'websockets_blocked']], []]);
    });

    it('is no matter once it was answered, or given up', async () => {
      const { TokenWebSocket } = make({ ...PATIENT, fetch: reachable });
      new TokenWebSocket(URL_OF_KERNEL, KERNEL);
      (await carrier()).open(KERNEL);
      const given = new TokenWebSocket(URL_OF_KERNEL, KERNEL);
      await turn();
      given.close();
      await turn(60_000);
      expect(causes().filter(([kind]) => kind === 'unexplained')).toEqual([]);
    });
  });

  it('blocked websockets are tried again, ever more seldom', async () => {
    vi.spyOn(Math, 'random').mockReturnValue(0.99);
    const fetch = answering(() => Response.json(CAPABILITIES));
    const socket = new (make({ ...PATIENT, fetch }).TokenWebSocket)(URL_OF_KERNEL, KERNEL);
    const attempts: number[] = [];
    for (let second = 0; second < 60; second++) {
      const native = await carrier();
      if (native.readyState === 0) {
        attempts.push(second);
        native.end(1006, '', false);
      }
      await turn(1000);
    }
    expect([attempts, socket.readyState]).toEqual([[0, 1, 3, 7, 15, 31], 0]);
    expect(events[0]).toMatchObject({ cause: 'websockets_blocked' });
  });

  it('blocked websockets are tried again at once when another gets through, but not each time', async () => {
    const random = vi.spyOn(Math, 'random').mockReturnValue(0.99);
    const { TokenWebSocket } = make({ ...PATIENT, fetch: answering(() => Response.json(CAPABILITIES)) });
    const block = async (): Promise<void> => {
      (await carrier()).end(1006, '', false);
      await turn();
    };
    new TokenWebSocket(URL_OF_KERNEL, KERNEL);
    for (const wait of [1000, 2000, 4000, 8000, 16_000, 0]) {
      await block();
      await turn(wait);
    }
    expect(carriers.length).toBe(6); // and 32 s to go
    random.mockReturnValue(0);
    for (const [name, attempts] of [
      ['2', 8],
      ['3', 9]
    ] as const) {
      new TokenWebSocket(`${BASE}terminals/websocket/${name}`);
      (await carrier()).open(MARKER);
      await turn();
      expect(carriers.length).toBe(attempts);
      random.mockReturnValue(0.99);
      if (attempts === 8) {
        expect((await carrier()).address).toBe(URL_OF_KERNEL);
        await block();
      }
    }
  });

  it('what cannot be explained is left to the application', async () => {
    const fetch = answering(path =>
      path === 'api/me' ? new Response('', { status: 500 }) : Response.json(CAPABILITIES)
    );
    const list = heard(new (make({ ...PATIENT, fetch }).TokenWebSocket)(URL_OF_KERNEL, KERNEL));
    (await carrier()).end(1006, '', false);
    await turn();
    expect(list).toEqual(['error', [1006, '', false]]);
  });

  it.each([
    [403, 'credential_refused'],
    [500, 'unknown']
  ])('what the cookie was told holds where REST says %d to the token', async (status, cause) => {
    const fetch = answering(path =>
      path === 'api/me' ? new Response('', { status }) : Response.json(CAPABILITIES)
    );
    for (const patient of [true, false]) {
      events = [];
      carriers = [];
      const { connections, TokenWebSocket } = make({ ...PATIENT, patient, fetch });
      const list = heard(new TokenWebSocket(URL_OF_KERNEL, KERNEL));
      await refuse('credentials_missing', 4401);
      (await carrier()).end(1006, '', false);
      await turn(30_000);
      expect([carriers.length, connections.parked().size]).toEqual([2, 1]);
      expect(list).toEqual(patient ? [] : ['error', [4401, 'credentials_missing', false]]);
      expect(events.map(event => event.kind)).toEqual(['refused', 'unexplained', 'parked']);
      expect(events[1]).toMatchObject({ cause });
    }
  });

  it('what the token was told holds where the cookie is told nothing', async () => {
    const { connections, TokenWebSocket } = make({ patient: true });
    const list = heard(new TokenWebSocket(URL_OF_KERNEL, KERNEL));
    await refuse('token_rejected', 4403);
    (await carrier()).end(1006, '', false);
    await turn(30_000);
    expect([list, carriers.length, connections.parked().size]).toEqual([[], 2, 1]);
  });

  it.each([true, false])('a token that only got lost is no refused one (patient: %s)', async patient => {
    const fetch = answering(() => Response.json(CAPABILITIES));
    const { connections, TokenWebSocket } = make({ ...PATIENT, patient, fetch });
    const list = heard(new TokenWebSocket(URL_OF_KERNEL, KERNEL));
    await refuse('credentials_missing', 4401);
    (await carrier()).end(1006, '', false);
    await turn(1000);
    expect(connections.parked().size).toBe(0);
    expect(list).toEqual(patient ? [] : ['error', [1006, '', false]]);
    if (!patient) {
      heard(new TokenWebSocket(URL_OF_KERNEL, KERNEL));
    }
    const native = await carrier();
    expect([carriers.length, native.protocols.includes(`${MARKER}.${SECRET}`)]).toEqual([3, true]);
  });
});
