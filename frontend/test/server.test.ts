/** `TokenWebSocket` over real sockets of the loopback address. */

import { once } from 'node:events';
import { createServer } from 'node:net';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import { Connections, type ConnectionEvent, type ConnectionOptions } from '../src/connections';
import { KERNEL, MARKER, REASON_MARKER } from '../src/constants';
import { tokenWebSocket } from '../src/socket';
import { echo, native, refusal, TestServer, type Knock } from './server';

/** One second, as it is by itself, is little on a busy machine. */
const PATIENT = { timeout: 30_000 };

let server: TestServer;
let events: ConnectionEvent[];

beforeEach(async () => {
  events = [];
  server = await TestServer.start();
});

afterEach(async () => {
  vi.restoreAllMocks();
  await server.stop();
});

function make(options: Partial<ConnectionOptions> = {}): {
  connections: Connections;
  TokenWebSocket: typeof WebSocket;
} {
  const mine = events; // an explanation may come when the next test has begun
  const connections = new Connections({
    baseUrl: server.baseUrl,
    token: () => 'good',
    onEvent: event => mine.push(event),
    WebSocket: native,
    ...options
  });
  return { connections, TokenWebSocket: tokenWebSocket(connections) };
}

/** The next event of one of these kinds. */
function next<K extends keyof WebSocketEventMap>(
  socket: WebSocket,
  ...kinds: K[]
): Promise<WebSocketEventMap[K]> {
  return new Promise(resolve => {
    for (const kind of kinds) {
      socket.addEventListener(kind, resolve, { once: true });
    }
  });
}

/** As the server judges: a good token enters, a good cookie where `cookie` is. */
function judge(cookie: boolean): (knock: Knock) => ReturnType<typeof echo> {
  return knock => {
    if (knock.token === 'good' || (knock.token === null && cookie)) {
      return echo(knock);
    }
    return refusal(knock.token === null ? 'credentials_missing' : 'token_rejected');
  };
}

describe('a good token', () => {
  it('opens; text and binary data go both ways', async () => {
    server.answer = judge(false);
    const socket = new (make().TokenWebSocket)(server.kernel, KERNEL);
    socket.binaryType = 'arraybuffer';
    await next(socket, 'open');
    expect([socket.protocol, socket.readyState, socket.url]).toEqual([KERNEL, 1, server.kernel]);
    socket.send('hällo');
    expect((await next(socket, 'message')).data).toBe('hällo');
    socket.send(new Uint8Array([1, 2, 3]));
    const { data } = await next(socket, 'message');
    expect(new Uint8Array(data as ArrayBuffer)).toEqual(new Uint8Array([1, 2, 3]));
    socket.binaryType = 'blob';
    socket.send(new Uint8Array([4]));
    expect(((await next(socket, 'message')).data as Blob).size).toBe(1);
    socket.close(3000, 'done');
    const end = await next(socket, 'close');
    expect([end.code, end.reason, end.wasClean, socket.readyState]).toEqual([3000, 'done', true, 3]);
    expect(server.knocks.map(knock => [knock.token, knock.query])).toEqual([['good', '']]);
  });

  it('opens a socket without subprotocols of its own', async () => {
    server.answer = judge(false);
    const socket = new (make().TokenWebSocket)(`${server.wsUrl}api/events/subscribe`);
    await next(socket, 'open');
    expect(socket.protocol).toBe('');
    expect(server.knocks[0]?.offered).toEqual([MARKER, REASON_MARKER]);
  });

  it('is encoded so that everything gets through', async () => {
    const token = 'a b(c)/ü+%"';
    server.answer = echo;
    const socket = new (make({ token: () => token }).TokenWebSocket)(server.kernel, KERNEL);
    await next(socket, 'open');
    expect(server.knocks[0]?.token).toBe(token);
  });
});

describe('a cookie', () => {
  it('goes first, and needs no token', async () => {
    server.answer = judge(true);
    const socket = new (make({ cookies: true, token: () => 'stale' }).TokenWebSocket)(server.kernel, KERNEL);
    await next(socket, 'open');
    expect(server.knocks.map(knock => knock.token)).toEqual([null]);
  });

  it('that is refused is followed by the token', async () => {
    server.answer = judge(false);
    const socket = new (make({ cookies: true }).TokenWebSocket)(server.kernel, KERNEL);
    await next(socket, 'open');
    expect(server.knocks.map(knock => knock.token)).toEqual([null, 'good']);
  });

  it('follows a rejected token', async () => {
    server.answer = judge(true);
    const socket = new (make({ token: () => 'stale' }).TokenWebSocket)(server.kernel, KERNEL);
    await next(socket, 'open');
    expect(server.knocks.map(knock => knock.token)).toEqual(['stale', null]);
  });

  it('opens a silent socket that is answered with the reason marker', async () => {
    server.answer = judge(true);
    const socket = new (make({ cookies: true }).TokenWebSocket)(`${server.wsUrl}api/events/subscribe`);
    await next(socket, 'open');
    socket.send('x');
    expect((await next(socket, 'message')).data).toBe('x');
  });
});

describe('a dead credential', () => {
  it('C3 costs two connections, whatever the application does, until it is released', async () => {
    server.answer = judge(false);
    let token = 'dead';
    const { connections, TokenWebSocket } = make({ cookies: true, token: () => token });
    // An application that reconnects at once, as stock code does.
    const ends: number[] = [];
    let socket: WebSocket;
    let reconnected: Promise<void> | undefined;
    const connect = (): void => {
      socket = new TokenWebSocket(server.kernel, KERNEL);
      socket.onclose = event => {
        ends.push(event.code);
        connect();
        reconnected = connections.mayConnect('api/kernels/1/channels', new AbortController().signal);
      };
    };
    connect();
    await vi.waitFor(() => expect(events.some(event => event.kind === 'parked')).toBe(true), PATIENT);
    await vi.waitFor(() => expect(reconnected).toBeDefined(), PATIENT);
    expect(server.knocks.map(knock => knock.token)).toEqual([null, 'dead']);
    expect(ends).toEqual([4403]);
    expect(socket!.readyState).toBe(0);

    token = 'good';
    connections.release();
    await next(socket!, 'open');
    socket!.onclose = null;
    expect(server.knocks.map(knock => knock.token)).toEqual([null, 'dead', null, 'good']);
  });
});

describe('a dead token across origins', () => {
  it('C3.4 parks with its own reason, where the cookie’s turn is answered in plain HTTP', async () => {
    server.answer = knock => (knock.token === null ? { status: 403 } : refusal('token_rejected'));
    const { connections, TokenWebSocket } = make({ token: () => 'dead' });
    const end = await next(new TokenWebSocket(server.kernel, KERNEL), 'close');
    expect([end.code, end.reason.split(':')[0], end.wasClean]).toEqual([4403, 'token_rejected', false]);
    expect(server.knocks.map(knock => knock.token)).toEqual(['dead', null]);
    expect(connections.parked().get('api/kernels/1/channels')?.slug).toBe('token_rejected');
    expect(events.map(event => event.kind)).toEqual(['refused', 'parked']);
  });
});

describe('other refusals', () => {
  it('have code and reason, after an error', async () => {
    server.answer = () => refusal('not_found');
    const socket = new (make().TokenWebSocket)(server.kernel, KERNEL);
    const order: string[] = [];
    for (const kind of ['open', 'error', 'close'] as const) {
      socket.addEventListener(kind, () => order.push(kind));
    }
    const end = await next(socket, 'close');
    expect([order, end.code, end.wasClean]).toEqual([['error', 'close'], 4404, false]);
    expect(events.map(event => event.kind)).toEqual(['refused', 'parked']);
  });

  it('C3 retry_after makes the next socket wait, and release does not', async () => {
    server.answer = () => refusal('unavailable', ';retry_after=3600');
    const { connections, TokenWebSocket } = make();
    await next(new TokenWebSocket(server.kernel, KERNEL), 'close');
    const told = events.find(event => event.kind === 'waiting');
    expect(told?.seconds).toBeGreaterThan(599);
    server.answer = echo;
    const socket = new TokenWebSocket(server.kernel, KERNEL);
    const waits = vi.spyOn(connections, 'mayConnect');
    await vi.waitFor(() => expect(waits).toHaveBeenCalledOnce(), PATIENT);
    expect([socket.readyState, server.knocks.length]).toEqual([0, 1]);
    connections.release('api/kernels/1/channels');
    await next(socket, 'open');
  });

  it('in plain HTTP are 1006 and explained', async () => {
    server.answer = () => ({ status: 403 });
    const socket = new (make().TokenWebSocket)(server.kernel, KERNEL);
    const end = await next(socket, 'close');
    expect([end.code, end.wasClean]).toEqual([1006, false]);
    await vi.waitFor(() => expect(events).toHaveLength(1), PATIENT);
    expect(events[0]).toMatchObject({ kind: 'unexplained', cause: 'websockets_blocked' });
  });

  it('in plain HTTP of the cookie: the next socket shows the token', async () => {
    server.answer = knock => (knock.token === 'good' ? echo(knock) : { status: 403 });
    const { TokenWebSocket } = make({ cookies: true });
    await next(new TokenWebSocket(server.kernel, KERNEL), 'close');
    await vi.waitFor(() => expect(events).toHaveLength(1), PATIENT);
    expect(events[0]).toMatchObject({ kind: 'unexplained', cause: 'credential_refused' });
    await next(new TokenWebSocket(server.kernel, KERNEL), 'open');
  });

  it('by nobody listening are 1006 and explained', async () => {
    const { baseUrl, kernel } = server;
    await server.stop();
    const end = await next(new (make({ baseUrl }).TokenWebSocket)(kernel, KERNEL), 'close');
    expect(end.code).toBe(1006);
    await vi.waitFor(() => expect(events).toHaveLength(1), PATIENT);
    expect(events[0]).toMatchObject({ kind: 'unexplained', cause: 'server_down' });
    server = await TestServer.start();
  });
});

describe('ends', () => {
  it('of the peer are told as they are', async () => {
    server.answer = knock => ({ ...echo(knock), then: socket => socket.close(4000, 'over') });
    const socket = new (make().TokenWebSocket)(server.kernel, KERNEL);
    const errors = vi.fn();
    socket.onerror = errors;
    const end = await next(socket, 'close');
    expect([end.code, end.reason, end.wasClean]).toEqual([4000, 'over', true]);
    expect(errors).not.toHaveBeenCalled();
  });

  it('of the network are 1006', async () => {
    server.answer = knock => ({ ...echo(knock), then: socket => socket.terminate() });
    const end = await next(new (make().TokenWebSocket)(server.kernel, KERNEL), 'close');
    expect([end.code, end.wasClean]).toEqual([1006, false]);
  });

  it('by close() before the server answered', async () => {
    const hanging = createServer();
    hanging.listen(0, '127.0.0.1');
    await once(hanging, 'listening');
    const { port } = hanging.address() as { port: number };
    const taken = once(hanging, 'connection') as Promise<[{ destroy: () => void }]>;
    const { TokenWebSocket } = make();
    const socket = new TokenWebSocket(`ws://127.0.0.1:${port}/`);
    const [stream] = await taken;
    socket.close();
    expect(socket.readyState).toBe(2);
    const end = await next(socket, 'close');
    expect([end.code, end.wasClean, socket.readyState]).toEqual([1006, false, 3]);
    stream.destroy();
    hanging.close();
  });
});

describe('a stock server', () => {
  beforeEach(() => {
    server.request = TestServer.withCapabilities(null);
    server.answer = knock =>
      knock.query.includes('token=good')
        ? { ...echo(knock), answered: knock.offered.includes(KERNEL) ? KERNEL : '' }
        : { status: 403 };
  });

  it('C2.9 gets the token by URL, with a warning', async () => {
    const said = vi.spyOn(console, 'warn').mockImplementation(() => undefined);
    const socket = new (make().TokenWebSocket)(`${server.wsUrl}terminals/websocket/1`);
    await next(socket, 'open');
    expect([server.knocks[0]?.offered, socket.url]).toEqual([[], `${server.wsUrl}terminals/websocket/1`]);
    expect(said).toHaveBeenCalledOnce();
  });

  it('C2.9 gets none where the user does not want it', async () => {
    const { TokenWebSocket } = make({ allowTokenInUrl: false });
    await next(new TokenWebSocket(server.kernel, KERNEL), 'close');
    expect(server.knocks.map(knock => [knock.query, knock.token])).toEqual([['', null]]);
  });
});

describe('foreign sockets', () => {
  it('are opened as they are, without any question', async () => {
    server.answer = echo;
    const { TokenWebSocket } = make({ baseUrl: 'http://127.0.0.1:1/' });
    const socket = new TokenWebSocket(`${server.wsUrl}api/kernels/1/channels?token=theirs`, 'mqtt');
    const end = await Promise.race([next(socket, 'open'), next(socket, 'close')]);
    expect(end.type).toBe('close'); // the server chose none of what was offered
    expect(server.knocks.map(knock => [knock.query, knock.offered, knock.token])).toEqual([
      ['?token=theirs', ['mqtt'], null]
    ]);
    expect([server.requests, events]).toEqual([[], []]);
  });
});
