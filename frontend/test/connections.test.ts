import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import {
  Connections,
  readCapabilities,
  type ConnectionEvent,
  type ConnectionOptions
} from '../src/connections';
import { parseClose, type Closed } from '../src/reasons';
import { CAPABILITIES, native, TestServer } from './server';

const PATH = 'api/kernels/1/channels';
const FORBIDDEN = parseClose(4403, 'forbidden') as Closed;
const FAILED = parseClose(4500, 'internal_error') as Closed;

let events: ConnectionEvent[];

function connections(options: Partial<ConnectionOptions> = {}): Connections {
  return new Connections({
    baseUrl: 'http://127.0.0.1:1/',
    WebSocket: native,
    onEvent: event => events.push(event),
    ...options
  });
}

/** What a waiting path keeps. */
function kept(of: Connections): { waiting: number; paths: number } {
  const inside = of as unknown as { _waiting: Map<string, unknown>; _paths: Map<string, unknown> };
  return { waiting: inside._waiting.size, paths: inside._paths.size };
}

/** Counts the listeners of a signal. */
function watched(): { controller: AbortController; listeners: () => number } {
  const controller = new AbortController();
  const add = vi.spyOn(controller.signal, 'addEventListener');
  const remove = vi.spyOn(controller.signal, 'removeEventListener');
  return { controller, listeners: () => add.mock.calls.length - remove.mock.calls.length };
}

beforeEach(() => {
  events = [];
});

afterEach(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
});

describe('options', () => {
  it('have defaults', () => {
    vi.stubGlobal('WebSocket', native);
    const made = new Connections({ baseUrl: 'https://host/user/ann' });
    vi.unstubAllGlobals();
    expect(made.baseUrl).toBe('https://host/user/ann/');
    expect(made.wsUrl).toBe('wss://host/user/ann/');
    expect([made.cookies, made.allowTokenInUrl, made.token]).toEqual([false, true, '']);
    expect(() => made.emit({ kind: 'open', path: 'x' })).not.toThrow();
  });

  it('C4 takes the websockets’ address from capabilities below the base only', () => {
    const ofDocument = (ws_url: string): string =>
      connections({ baseUrl: 'https://host/ann/', capabilities: { api_versions: ['1.0'], ws_url } }).wsUrl;
    expect(ofDocument('wss://host/ann/ws/')).toBe('wss://host/ann/ws/');
    expect(ofDocument('wss://evil/ann/')).toBe('wss://host/ann/');
  });

  it('takes the websockets’ address that the page gave before that', () => {
    expect(connections({ wsUrl: 'wss://elsewhere/ann' }).wsUrl).toBe('wss://elsewhere/ann/');
  });

  it('a token function that fails gives no token, and is heard of', () => {
    const said = vi.spyOn(console, 'error').mockImplementation(() => undefined);
    const broken = new Error('broken');
    const made = connections({
      token: () => {
        throw broken;
      }
    });
    expect(made.token).toBe('');
    expect(said).toHaveBeenCalledWith(broken);
  });

  it('a listener that fails is heard of and goes no further', () => {
    const said = vi.spyOn(console, 'error').mockImplementation(() => undefined);
    const broken = new Error('broken');
    const made = connections({
      onEvent: () => {
        throw broken;
      }
    });
    made.release('x');
    expect(said).toHaveBeenCalledWith(broken);
  });
});

describe('capabilities', () => {
  let server: TestServer;

  beforeEach(async () => {
    server = await TestServer.start();
  });

  afterEach(async () => {
    await server.stop();
  });

  it('are asked for once, below the base', async () => {
    const made = connections({ baseUrl: server.baseUrl });
    const both = await Promise.all([made.capabilities(), made.capabilities()]);
    expect(both).toEqual([CAPABILITIES, CAPABILITIES]);
    expect(await made.capabilities()).toEqual(CAPABILITIES);
    expect(server.requests.map(request => request.url)).toEqual(['/user/ann/api/token-ws/capabilities']);
  });

  it('are not asked for where the page has them', async () => {
    const made = connections({ baseUrl: server.baseUrl, capabilities: CAPABILITIES });
    expect(await made.capabilities()).toBe(CAPABILITIES);
    expect(server.requests).toEqual([]);
  });

  it('are null after 404, which is kept', async () => {
    server.request = TestServer.withCapabilities(null);
    const made = connections({ baseUrl: server.baseUrl });
    expect(await made.capabilities()).toBeNull();
    expect(await made.capabilities()).toBeNull();
    expect(server.requests.map(request => request.url)).toEqual([
      '/user/ann/api/token-ws/capabilities',
      '/user/ann/api'
    ]);
  });

  it.each<[string, (server: TestServer) => void]>([
    ['a proxy without server', s => (s.request = (_, to) => to.writeHead(503).end())],
    ['a page', s => (s.request = (_, to) => to.end('<html>'))],
    ['some JSON', s => (s.request = (_, to) => to.end('{"api_versions": "1.0"}'))],
    ['no object', s => (s.request = (_, to) => to.end('null'))],
    ['another major version', s => (s.request = (_, to) => to.end('{"api_versions": ["2.0"]}'))],
    ['a login page', s => (s.request = (_, to) => to.writeHead(302, { Location: '/login' }).end())],
    ['404 of a proxy', s => (s.request = (_, to) => to.writeHead(404).end('default backend - 404'))],
    ['404 of something with JSON', s => (s.request = (_, to) => to.writeHead(404).end('{"version": "1"}'))],
    [
      '404 of another API',
      s => (s.request = (r, to) => to.writeHead(r.url === '/user/ann/api' ? 200 : 404).end('{}'))
    ],
    [
      '404 of no object',
      s => (s.request = (r, to) => to.writeHead(r.url === '/user/ann/api' ? 200 : 404).end('null'))
    ],
    ['a torn connection', s => (s.request = (_, to) => to.destroy())]
  ])('C2.9 are not taken for absent after %s, and asked for again', async (_what, behave) => {
    behave(server);
    const made = connections({ baseUrl: server.baseUrl });
    await expect(made.capabilities()).rejects.toThrow();
    server.request = TestServer.withCapabilities();
    expect(await made.capabilities()).toEqual(CAPABILITIES);
  });

  /** What a page of another origin gets: errors for what has no CORS headers. */
  function elsewhere(readable: (path: string, times: number) => boolean, answers = true): typeof fetch {
    const times = new Map<string, number>();
    return (address, init) => {
      const path = new URL(String(address)).pathname.slice(1);
      if (init?.mode === 'no-cors') {
        const opaque = { type: 'opaque', ok: false } as Response;
        return answers ? Promise.resolve(opaque) : Promise.reject(new TypeError('no route'));
      }
      times.set(path, (times.get(path) ?? 0) + 1);
      const document = path === 'api' ? { version: '2' } : CAPABILITIES;
      return readable(path, times.get(path) ?? 0)
        ? Promise.resolve(Response.json(document))
        : Promise.reject(new TypeError('CORS'));
    };
  }

  it('are null where a page of another origin may not read the 404, but what every server has', async () => {
    const made = connections({ baseUrl: 'http://elsewhere/', fetch: elsewhere(path => path === 'api') });
    expect(await made.capabilities()).toBeNull();
  });

  it.each<[string, typeof fetch]>([
    ['nothing may be read', elsewhere(() => false)],
    ['nothing answers', elsewhere(path => path === 'api', false)],
    ['they come the second time', elsewhere((path, times) => path === 'api' || times > 1)]
  ])('C2.9 are not taken for absent where %s', async (_what, fetch) => {
    const made = connections({ baseUrl: 'http://elsewhere/', fetch });
    await expect(made.capabilities()).rejects.toThrow('CORS');
  });

  it.each<[string, unknown]>([
    ['base_url', 7],
    ['ws_url', {}],
    ['token', 'v1'],
    ['token', null],
    ['reasons', true],
    ['reasons', []],
    ['sockets', { 0: 'x' }],
    ['sockets', ['x', 7]]
  ])('lose a member of another type: %s %j', (name, value) => {
    const read = readCapabilities({ ...CAPABILITIES, base_url: 'http://x/', [name]: value, more: 1 });
    const expected: Record<string, unknown> = { ...CAPABILITIES, base_url: 'http://x/', more: 1 };
    delete expected[name];
    expect(read).toEqual(expected);
  });

  it('decide what is declared; stock sockets without', () => {
    const made = connections();
    expect(made.declares('lsp/ws/py', { api_versions: [], sockets: ['lsp/ws/{name}'] })).toBe(true);
    expect(made.declares(PATH, { api_versions: [], sockets: ['lsp/ws/{name}'] })).toBe(false);
    expect(made.declares(PATH, null)).toBe(true);
    expect(made.declares(PATH, undefined)).toBe(true);
    expect(made.declares('lsp/ws/py', null)).toBe(false);
  });
});

describe('explanations', () => {
  let server: TestServer;

  beforeEach(async () => {
    server = await TestServer.start();
  });

  afterEach(async () => {
    await server.stop();
  });

  const causes = (): string[] =>
    events.map(event => (event.kind === 'unexplained' ? event.cause : `not ${event.kind}`));

  it('websockets are blocked where plain requests go through', async () => {
    const made = connections({ baseUrl: server.baseUrl, token: () => 'good' });
    await made.explain(PATH, 'token', 'one');
    expect(causes()).toEqual(['websockets_blocked']);
    expect(server.requests[1]?.headers.authorization).toBe('token good');
  });

  it('websockets are not blocked while one is open, or got through or was told a reason just now', async () => {
    let time = 1000;
    vi.spyOn(performance, 'now').mockImplementation(() => time * 1000);
    const made = connections({ baseUrl: server.baseUrl, token: () => 'good' });
    const cause = async (): Promise<unknown> => {
      events = [];
      expect(await made.explain(PATH, 'token', 'one')).toBe('websockets_blocked'); // try again all the same
      return causes()[0];
    };
    expect(await cause()).toBe('websockets_blocked');
    made.opened('a');
    made.opened('b');
    made.emit({ kind: 'closed', path: 'a' });
    time += 100;
    expect(await cause()).toBe('unknown');
    made.emit({ kind: 'closed', path: 'b' });
    expect(await cause()).toBe('websockets_blocked');
    made.emit({ kind: 'refused', path: 'c', closed: FORBIDDEN });
    time += 14;
    expect(await cause()).toBe('unknown');
    time += 2;
    expect(await cause()).toBe('websockets_blocked');
    made.opened('a');
    made.emit({ kind: 'closed', path: 'a' });
    expect(await cause()).toBe('unknown');
  });

  it('the credential died, and the other one goes first from now on', async () => {
    const made = connections({ baseUrl: server.baseUrl, token: () => 'good', cookies: true });
    await made.explain(PATH, 'cookie', 'one');
    expect(causes()).toEqual(['credential_refused']);
    expect(server.requests[1]?.headers.authorization).toBeUndefined();
    expect(made.state(PATH).first(true, 'one')).toBe('token');
  });

  it.each([
    ['the last of its name', 'a=b; _xsrf=first; _xsrf=2|x=; c_xsrf=no', 'own', '2|x='],
    ['none where there is no cookie', 'a=b', 'own', undefined],
    ['none for a server elsewhere', '_xsrf=x', 'http://elsewhere', undefined]
  ])('a cookie comes with what some servers want beside it: %s', async (_what, cookie, origin, header) => {
    vi.stubGlobal('document', { cookie });
    vi.stubGlobal('location', { origin: origin === 'own' ? new URL(server.baseUrl).origin : origin });
    await connections({ baseUrl: server.baseUrl }).explain(PATH, 'cookie', 'one');
    expect(server.requests[1]?.headers['x-xsrftoken']).toBe(header);
    vi.unstubAllGlobals();
  });

  it('the credential died where plain requests are sent to the login page', async () => {
    const well = server.request;
    server.request = (request, response) =>
      request.url?.endsWith('/api/me')
        ? response.writeHead(302, { Location: '/login' }).end()
        : well(request, response);
    await connections({ baseUrl: server.baseUrl }).explain(PATH, 'cookie', 'one');
    expect(causes()).toEqual(['credential_refused']);
  });

  it.each([404, null])('nothing is said where the credential could not be judged (%s)', async status => {
    const well = server.request;
    server.request = (request, response) => {
      if (!request.url?.endsWith('/api/me')) {
        well(request, response);
      } else if (status === null) {
        response.destroy();
      } else {
        response.writeHead(status).end();
      }
    };
    await connections({ baseUrl: server.baseUrl }).explain(PATH, 'cookie', 'one');
    expect(causes()).toEqual(['unknown']);
  });

  it('nothing is said where the page may not read the answers', async () => {
    // As a browser does for a page of another origin that the server does not allow.
    const fetch = (_address: unknown, options?: RequestInit): Promise<Response> =>
      options?.mode === 'no-cors'
        ? Promise.resolve({ type: 'opaque', ok: false } as Response)
        : Promise.reject(new TypeError('Failed to fetch'));
    await connections({ fetch }).explain(PATH, 'token', 'one');
    expect(causes()).toEqual(['unknown']);
  });

  it('the credential died where the own server’s address leads to another origin, which is a login', async () => {
    vi.stubGlobal('location', { origin: 'http://127.0.0.1:1' });
    const fetch = (_address: unknown, options?: RequestInit): Promise<Response> =>
      options?.mode === 'no-cors'
        ? Promise.resolve({ type: 'opaque', ok: false } as Response)
        : Promise.reject(new TypeError('Failed to fetch'));
    await connections({ fetch }).explain(PATH, 'token', 'one');
    expect(causes()).toEqual(['credential_refused']);
    vi.unstubAllGlobals();
  });

  it.each([
    ['text/html; charset=utf-8', 'server_down'],
    ['application/json', 'unknown']
  ])('something else that answers is no server where it shows a page: %s', async (type, cause) => {
    server.request = (_request, response) => response.setHeader('Content-Type', type).end('<html>');
    await connections({ baseUrl: server.baseUrl }).explain(PATH, 'token', 'one');
    expect(causes()).toEqual([cause]);
  });

  it('a proxy that has no server behind it is a server that is down', async () => {
    server.request = (_request, response) => response.writeHead(502).end();
    await connections({ baseUrl: server.baseUrl }).explain(PATH, 'token', 'one');
    expect(causes()).toEqual(['server_down']);
  });

  it('the server is down', async () => {
    const { baseUrl } = server;
    await server.stop();
    await connections({ baseUrl }).explain(PATH, 'token', 'one');
    expect(causes()).toEqual(['server_down']);
    server = await TestServer.start();
  });

  it('nothing can be said for a server that tells no reasons', async () => {
    const token = (): string => 'good';
    server.request = TestServer.withCapabilities(null);
    await connections({ baseUrl: server.baseUrl, token }).explain(PATH, 'token', 'one');
    server.request = TestServer.withCapabilities({ ...CAPABILITIES, reasons: undefined });
    await connections({ baseUrl: server.baseUrl, token }).explain(PATH, 'token', 'one');
    expect(causes()).toEqual(['unknown', 'unknown']);
  });

  it('are one for all who ask within seconds, and found anew later or after release', async () => {
    let time = 1000;
    vi.spyOn(performance, 'now').mockImplementation(() => time);
    const made = connections({ baseUrl: server.baseUrl, token: () => 'good' });
    await Promise.all([made.explain('a', 'token', 'one'), made.explain('b', 'token', 'one')]);
    await made.explain('c', 'token', 'one');
    expect(server.requests).toHaveLength(2);
    time += 5001;
    await made.explain('a', 'token', 'one');
    expect(server.requests).toHaveLength(4);
    made.release();
    await made.explain('a', 'token', 'one');
    expect(server.requests).toHaveLength(6);
    expect(causes()).toEqual(Array(5).fill('websockets_blocked'));
  });

  it('notice that the extension came, and do not believe that it went', async () => {
    server.request = TestServer.withCapabilities(null);
    const made = connections({ baseUrl: server.baseUrl });
    expect(await made.capabilities()).toBeNull();
    server.request = TestServer.withCapabilities();
    await made.explain(PATH, 'token', 'one');
    expect(await made.capabilities()).toEqual(CAPABILITIES);
    made.release();
    server.request = TestServer.withCapabilities(null);
    await made.explain(PATH, 'token', 'one');
    expect(await made.capabilities()).toEqual(CAPABILITIES);
  });
});

function settled(promise: Promise<unknown>): () => boolean {
  let done = false;
  void promise.then(() => (done = true));
  return () => done;
}

describe('mayConnect', () => {
  beforeEach(() => {
    vi.useFakeTimers();
  });

  it('is at once for a path that nothing is known of, and remembers nothing', async () => {
    const made = connections();
    await made.mayConnect(PATH, new AbortController().signal);
    expect(kept(made)).toEqual({ waiting: 0, paths: 0 });
  });

  it('waits until the time has come and leaves nothing behind', async () => {
    const made = connections();
    const { controller, listeners } = watched();
    made.state(PATH).refused(FAILED, 'token', true, performance.now() / 1000, 0.5, 'one');
    const done = settled(made.mayConnect(PATH, controller.signal));
    await vi.advanceTimersByTimeAsync(499);
    expect([done(), kept(made).waiting, listeners()]).toEqual([false, 1, 1]);
    await vi.advanceTimersByTimeAsync(2);
    expect([done(), kept(made).waiting, listeners(), vi.getTimerCount()]).toEqual([true, 0, 0, 0]);
  });

  it('waits ten minutes at most, whatever the server says', async () => {
    const made = connections();
    const closed = parseClose(4503, 'draining;retry_after=999999999') as Closed;
    made.state(PATH).refused(closed, 'token', true, performance.now() / 1000, 0, 'one');
    const done = settled(made.mayConnect(PATH, new AbortController().signal));
    await vi.advanceTimersByTimeAsync(599_000);
    expect(done()).toBe(false);
    await vi.advanceTimersByTimeAsync(1100);
    expect(done()).toBe(true);
  });

  it('stays for a parked path until it is released', async () => {
    const made = connections();
    const one = watched();
    const two = watched();
    made.state(PATH).refused(FORBIDDEN, 'token', true, 0, 0, 'one');
    const first = settled(made.mayConnect(PATH, one.controller.signal));
    const second = settled(made.mayConnect(PATH, two.controller.signal));
    await vi.advanceTimersByTimeAsync(3_600_000);
    expect([first(), second(), vi.getTimerCount()]).toEqual([false, false, 0]);
    expect([...made.parked()]).toEqual([[PATH, FORBIDDEN]]);
    made.release();
    await vi.advanceTimersByTimeAsync(0);
    expect([first(), second()]).toEqual([true, true]);
    expect([kept(made).waiting, one.listeners(), two.listeners(), made.parked().size]).toEqual([0, 0, 0, 0]);
    expect(events).toEqual([{ kind: 'released', path: PATH }]);
  });

  it('is released by path alone too, waiting ones included', async () => {
    const made = connections();
    made.state('a').refused(FORBIDDEN, 'token', true, 0, 0, 'one');
    made.state('b').refused(FAILED, 'token', true, performance.now() / 1000, 0.5, 'one');
    const { signal } = new AbortController();
    const [parked, waiting] = [settled(made.mayConnect('a', signal)), settled(made.mayConnect('b', signal))];
    made.release('b');
    await vi.advanceTimersByTimeAsync(0);
    expect([parked(), waiting(), vi.getTimerCount()]).toEqual([false, true, 0]);
    made.release('a');
    await vi.advanceTimersByTimeAsync(0);
    expect(parked()).toBe(true);
  });

  it('goes on waiting where the path was parked meanwhile', async () => {
    const made = connections();
    made.state(PATH).refused(FAILED, 'token', true, performance.now() / 1000, 0.5, 'one');
    const done = settled(made.mayConnect(PATH, new AbortController().signal));
    made.state(PATH).refused(FORBIDDEN, 'token', true, 0, 0, 'one');
    await vi.advanceTimersByTimeAsync(60_000);
    expect(done()).toBe(false);
  });

  it('ends with the signal, whatever it waits for', async () => {
    const made = connections();
    made.state('a').refused(FORBIDDEN, 'token', true, 0, 0, 'one');
    made.state('b').refused(FAILED, 'token', true, performance.now() / 1000, 0.5, 'one');
    const { controller, listeners } = watched();
    const both = [made.mayConnect('a', controller.signal), made.mayConnect('b', controller.signal)];
    controller.abort();
    await Promise.all(both);
    await made.mayConnect('a', controller.signal);
    expect([kept(made).waiting, vi.getTimerCount(), listeners()]).toEqual([0, 0, 0]);
  });
});

describe('the memory of paths', () => {
  it('is dropped when there is nothing in it, and after health', () => {
    const made = connections();
    made.state('a');
    made.ended('a', 0, false);
    made.state('b').refused(FAILED, 'token', true, 0, 0.5, 'one');
    made.ended('b', 9, false);
    expect(kept(made).paths).toBe(1);
    made.ended('b', 10, false);
    made.ended('c', 10, false);
    expect(kept(made).paths).toBe(0);
  });
});

describe('the memory of many paths', () => {
  it('loses what was long ago, and the oldest of too many, but nothing that a socket waits for', () => {
    let time = 1000;
    vi.spyOn(performance, 'now').mockImplementation(() => time * 1000);
    const made = connections();
    made.state('old').refused(FAILED, 'token', true, time, 0.5, 'one');
    made.state('stumbled').stumbled(time, time, 0.5);
    made.joined('waiting');
    made.state('waiting').refused(FAILED, 'token', true, time, 0.5, 'one');
    made.state('refused').distrust('cookie', 'one');
    time += 59;
    made.state('new').stumbled(time, time, 0.5);
    expect(kept(made).paths).toBe(5);
    time += 2;
    made.state('newer').stumbled(time, time, 0.5);
    const inside = made as unknown as { _paths: Map<string, unknown> };
    expect([...inside._paths.keys()]).toEqual(['waiting', 'refused', 'new', 'newer']);
    for (let kernel = 0; kernel < 1000; kernel++) {
      made.state(`kernel-${kernel}`).park(FORBIDDEN);
    }
    expect([kept(made).paths, made.parked().has('kernel-999')]).toEqual([500, true]);
    expect(inside._paths.has('waiting')).toBe(true);
    made.parted('waiting', false);
    made.parted('waiting', false);
    made.state('one more');
    expect(inside._paths.has('waiting')).toBe(false);
  });
});

describe('turns', () => {
  beforeEach(() => {
    vi.useFakeTimers();
  });

  const signal = new AbortController().signal;

  it("are nobody's while all is well", async () => {
    const made = connections();
    made.ended(PATH, 1, true);
    await Promise.all([made.turn(PATH, signal), made.turn(PATH, signal)]);
  });

  it('come one after the other on a path once a socket was lost, until one opens', async () => {
    const made = connections();
    made.ended(PATH, 1, false);
    const first = await made.turn(PATH, signal);
    await made.turn('another/path', signal);
    const second = made.turn(PATH, signal);
    const third = settled(made.turn(PATH, signal));
    const told = settled(second);
    await vi.advanceTimersByTimeAsync(1000);
    expect([told(), third()]).toEqual([false, false]);
    first();
    first();
    await vi.advanceTimersByTimeAsync(0);
    expect([told(), third()]).toEqual([true, false]);
    made.opened(PATH);
    (await second)();
    await vi.advanceTimersByTimeAsync(0);
    expect(third()).toBe(true);
    await Promise.all([made.turn(PATH, signal), made.turn(PATH, signal)]);
  });

  it('are not taken where the path was parked meanwhile', async () => {
    const made = connections();
    made.ended(PATH, 1, false);
    const done = await made.turn(PATH, signal);
    const next = settled(made.turn(PATH, signal));
    await vi.advanceTimersByTimeAsync(0);
    made.state(PATH).refused(FORBIDDEN, 'token', true, 0, 0, 'one');
    done();
    await vi.advanceTimersByTimeAsync(1000);
    expect(next()).toBe(false);
    made.release();
    await vi.advanceTimersByTimeAsync(0);
    expect(next()).toBe(true);
  });

  it('may be given up', async () => {
    const made = connections();
    made.ended(PATH, 1, false);
    await made.turn(PATH, signal);
    const { controller, listeners } = watched();
    const next = made.turn(PATH, controller.signal);
    await vi.advanceTimersByTimeAsync(0);
    controller.abort();
    (await next)();
    expect(listeners()).toBe(0);
  });
});

describe('a server that does not answer', () => {
  beforeEach(() => {
    vi.useFakeTimers();
  });

  function silent(): {
    made: Connections;
    asked: number[];
    answer: (response: () => Promise<Response>) => void;
  } {
    vi.spyOn(Math, 'random').mockReturnValue(1);
    let how = (): Promise<Response> => Promise.reject(new TypeError('no route'));
    const asked: number[] = [];
    const began = performance.now();
    const made = connections({
      fetch: (_address, init) => {
        if (init?.mode !== 'no-cors') {
          asked.push(Math.round((performance.now() - began) / 1000));
        }
        return how();
      }
    });
    return { made, asked, answer: response => void (how = response) };
  }

  it('is asked by one for all, ever more seldom, until it answers', async () => {
    const { made, asked, answer } = silent();
    const signal = new AbortController().signal;
    const all = [settled(made.revived(signal)), settled(made.revived(signal))];
    await vi.advanceTimersByTimeAsync(80_000);
    // A server that was started again is soon found to be back.
    const soon = Array.from({ length: 16 }, (_, index) => 1 + 2 * index);
    expect(asked).toEqual([...soon, 35, 43, 58, 73]);
    answer(() => Promise.resolve(Response.json(CAPABILITIES)));
    await vi.advanceTimersByTimeAsync(15_000);
    expect([asked.length, all.map(done => done()), vi.getTimerCount()]).toEqual([21, [true, true], 0]);
  });

  it('answers also where a page may not read what', async () => {
    const { made, answer } = silent();
    const done = settled(made.revived(new AbortController().signal));
    let first = true;
    answer(() => {
      const response = first ? Promise.reject(new TypeError('CORS')) : Promise.resolve(new Response('{}'));
      first = false;
      return response;
    });
    await vi.advanceTimersByTimeAsync(1000);
    expect(done()).toBe(true);
  });

  it('is asked at once when the user acts', async () => {
    const { made, asked, answer } = silent();
    const done = settled(made.revived(new AbortController().signal));
    answer(() => Promise.resolve(Response.json(CAPABILITIES)));
    made.release();
    await vi.advanceTimersByTimeAsync(0);
    expect([done(), asked]).toEqual([true, [0]]);
  });

  it('is not asked for one who had left before', async () => {
    const { made, asked } = silent();
    const done = settled(made.revived(AbortSignal.abort()));
    await vi.advanceTimersByTimeAsync(0);
    expect(done()).toBe(true);
    await vi.advanceTimersByTimeAsync(100_000);
    expect([asked, vi.getTimerCount()]).toEqual([[], 0]);
  });

  it('is not asked when nobody waits any more', async () => {
    const { made, asked } = silent();
    const { controller, listeners } = watched();
    const done = settled(made.revived(controller.signal));
    await vi.advanceTimersByTimeAsync(1000);
    controller.abort();
    await vi.advanceTimersByTimeAsync(100_000);
    expect([done(), listeners(), vi.getTimerCount(), asked.length]).toEqual([true, 0, 0, 1]);
  });
});
