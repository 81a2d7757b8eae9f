import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { PageConfig } from '@jupyterlab/coreutils';
import { IServerSettings, ServerConnection } from '@jupyterlab/services';
import { Connections, parseClose, type Closed } from 'jupyter-token-ws';
import { bus } from '../src/bus';
import { applies, makeSettings, ofPage, releasing, serverSettings } from '../src/settings';
import { goTo } from './page';

const HOME = 'https://host/ann/';
const CAPABILITIES = {
  api_versions: ['1.0'],
  base_url: HOME,
  ws_url: 'wss://host/ann/',
  token: { subprotocol: 'v1.token.websocket.jupyter.org', in_url: true, max_size: 4096 },
  reasons: { subprotocol: 'v1.reason.websocket.jupyter.org', mode: 'offered', codes: {} },
  sockets: ['api/kernels/{id}/channels', 'terminals/websocket/{name}', 'api/events/subscribe', 'lsp/ws/{key}']
};

/** The browser's socket: what was asked of it. */
class Native {
  static made: Native[] = [];
  binaryType = 'blob';
  bufferedAmount = 0;
  extensions = '';
  protocol = '';
  readyState = 0;
  onopen: ((event: Event) => void) | null = null;
  onmessage = null;
  onerror = null;
  onclose: ((event: CloseEvent) => void) | null = null;

  constructor(
    readonly address: string,
    readonly protocols: readonly string[]
  ) {
    Native.made.push(this);
  }

  send(): void {
    throw new Error('nothing is sent in these tests');
  }

  close(): void {
    this.readyState = 3;
  }

  refuse(code: number, reason: string): void {
    this.protocol = 'v1.reason.websocket.jupyter.org';
    this.onopen?.(new Event('open'));
    this.onclose?.(new CloseEvent('close', { code, reason, wasClean: true }));
  }
}

function page(options: Record<string, unknown>): void {
  for (const [name, value] of Object.entries(options)) {
    PageConfig.setOption(name, typeof value === 'string' ? value : JSON.stringify(value));
  }
}

/** The page's settings, and a page's way to open a socket with them. */
function settings(fetch?: typeof globalThis.fetch): ReturnType<typeof makeSettings> {
  return makeSettings({
    WebSocket: Native as never,
    fetch: fetch ?? ((): Promise<Response> => Promise.reject(new TypeError('no network in this test')))
  });
}

async function offered(path: string): Promise<Native> {
  const made = settings();
  const before = Native.made.length;
  const parameter = made.appendToken ? `?token=${made.token}` : '';
  new made.WebSocket(`${made.wsUrl}${path}${parameter}`, []);
  await vi.waitUntil(() => Native.made.length > before);
  return Native.made[before] as Native;
}

const TOKENS = ['v1.token.websocket.jupyter.org', 'v1.token.websocket.jupyter.org.secret'];
const REASON = 'v1.reason.websocket.jupyter.org';

beforeEach(() => {
  Native.made = [];
  goTo(`${HOME}lab`);
  page({ baseUrl: HOME, wsUrl: '', token: 'secret', appendToken: '', tokenWebSocket: CAPABILITIES });
});

afterEach(() => {
  vi.restoreAllMocks();
});

describe('the capabilities of the page', () => {
  it('are what the server put there', () => {
    expect(ofPage({ baseUrl: HOME })).toEqual(CAPABILITIES);
  });

  it.each([
    ['no extension', ''],
    ['null', 'null'],
    ['no JSON', '{'],
    ['something else', { api: 1 }],
    ['another major version', { ...CAPABILITIES, api_versions: ['2.0'] }],
    ['of another server on this origin', { ...CAPABILITIES, base_url: 'https://host/bob/' }]
  ])('%s: none', (_what, found) => {
    page({ tokenWebSocket: found });
    expect([ofPage({ baseUrl: HOME }), applies()]).toEqual([null, false]);
  });

  it.each([
    ['without an address', undefined],
    ['with one that is none', 'here'],
    ['seen through a proxy', 'http://inside:8888/ann']
  ])('%s: taken', (_what, base_url) => {
    page({ tokenWebSocket: { ...CAPABILITIES, base_url } });
    expect(ofPage({ baseUrl: HOME })).not.toBeNull();
  });

  it('do not count for a server elsewhere, which is asked', () => {
    page({ baseUrl: 'https://elsewhere/ann/' });
    expect([ofPage({ baseUrl: 'https://elsewhere/ann/' }), applies()]).toEqual([null, true]);
  });

  it('do not help in a frontend that takes no settings', async () => {
    vi.resetModules();
    vi.doMock('@jupyterlab/services', () => ({ IServerSettings: undefined, ServerConnection }));
    const older = await import('../src/settings');
    expect([applies(), older.applies()]).toEqual([true, false]);
    vi.doUnmock('@jupyterlab/services');
  });

  it('are not looked for where the page has no settings', () => {
    const complaint = vi.spyOn(console, 'error').mockImplementation(() => undefined);
    vi.spyOn(ServerConnection, 'makeSettings').mockImplementation(() => {
      throw new Error('no page config');
    });
    expect(applies()).toBe(false);
    expect(complaint).toHaveBeenCalledOnce();
  });
});

describe('sockets', () => {
  it('on the same host go by the cookie first', async () => {
    const native = await offered('api/kernels/1/channels');
    expect([native.address, native.protocols]).toEqual(['wss://host/ann/api/kernels/1/channels', [REASON]]);
  });

  it('and by the token once the cookie was refused', async () => {
    (await offered('api/kernels/2/channels')).refuse(4401, 'credentials_missing');
    await vi.waitUntil(() => Native.made.length > 1);
    expect(Native.made[1]?.protocols).toEqual([...TOKENS, REASON]);
  });

  it.each([
    ['appendToken', { appendToken: 'true' }, 'wss://host/ann/'],
    ['websocket_url', { wsUrl: 'wss://sockets/ann/' }, 'wss://sockets/ann/']
  ])('%s: by the token, and not in the address', async (_what, options, wsUrl) => {
    page(options);
    for (const path of [
      'api/kernels/1/channels',
      'terminals/websocket/1',
      'api/events/subscribe',
      'lsp/ws/x'
    ]) {
      const native = await offered(path);
      expect([native.address, native.protocols]).toEqual([wsUrl + path, [...TOKENS, REASON]]);
    }
  });

  it('to proxied applications get nothing of ours', async () => {
    page({ appendToken: 'true' });
    const native = await offered('proxy/1/socket');
    expect([native.address, native.protocols]).toEqual(['wss://host/ann/proxy/1/socket', []]);
  });

  it('show the token that the page has by now', async () => {
    page({ appendToken: 'true' });
    const made = settings();
    bus.setToken('other');
    new made.WebSocket(`${made.wsUrl}api/events/subscribe`);
    await vi.waitUntil(() => Native.made.length > 0);
    expect(Native.made[0]?.protocols).toContain('v1.token.websocket.jupyter.org.other');
  });

  it.each([
    ['elsewhere, with the token', { token: 'secret' }, [...TOKENS, REASON]],
    ['elsewhere, without one', { token: '' }, [REASON]]
  ])('of a server %s', async (_what, options, protocols) => {
    page({ baseUrl: 'https://elsewhere/', ...options });
    const made = settings(() =>
      Promise.resolve(Response.json({ ...CAPABILITIES, base_url: 'https://elsewhere/' }))
    );
    new made.WebSocket('wss://elsewhere/lsp/ws/x');
    await vi.waitUntil(() => Native.made.length > 0);
    expect(Native.made[0]?.protocols).toEqual(protocols);
  });

  it.each([
    ['stock puts it there', 'true', true, '?token=secret'],
    ['the user forbade that', 'true', false, ''],
    ['stock does not', 'false', true, '']
  ])(
    'of a server elsewhere without the extension have the token in the address: %s',
    async (_what, appendToken, allowed, query) => {
      page({ baseUrl: 'https://elsewhere/', token: 'secret', appendToken });
      vi.spyOn(console, 'warn').mockImplementation(() => undefined);
      const made = settings(address =>
        Promise.resolve(
          String(address).endsWith('/api')
            ? Response.json({ version: '2.0' })
            : new Response('', { status: 404 })
        )
      );
      bus.allowTokenInUrl = allowed;
      new made.WebSocket(`wss://elsewhere/api/events/subscribe${made.appendToken ? '?token=secret' : ''}`);
      await vi.waitUntil(() => Native.made.length > 0);
      expect([Native.made[0]?.address, Native.made[0]?.protocols]).toEqual([
        `wss://elsewhere/api/events/subscribe${query}`,
        []
      ]);
      bus.allowTokenInUrl = true;
    }
  );
});

describe('the plugin', () => {
  it('provides settings that differ from stock in two things only', () => {
    const stock: object = ServerConnection.makeSettings();
    const ours: object = serverSettings.activate(null) as object;
    const told = (settings: object): unknown => JSON.parse(JSON.stringify(settings));
    expect([told(ours), Object.keys(ours).sort()]).toEqual([told(stock), Object.keys(stock).sort()]);
    const parts = Object.entries(stock).filter(([, value]) => typeof value === 'function');
    const changed = parts.filter(([name, value]) => (ours as Record<string, unknown>)[name] !== value);
    expect(changed.map(([name]) => name).sort()).toEqual(['WebSocket', 'fetch']);
    expect(serverSettings.provides).toBe(IServerSettings);
    expect(bus.serverSettings).toBe(ours);
    expect(bus.connections?.patient).toBe(true);
  });

  it("goes on with stock's where anything of ours fails", () => {
    const complaint = vi.spyOn(console, 'error').mockImplementation(() => undefined);
    const stock = ServerConnection.makeSettings();
    vi.spyOn(ServerConnection, 'makeSettings').mockReturnValueOnce(stock);
    vi.spyOn(bus, 'provide').mockImplementationOnce(() => {
      throw new Error('broken');
    });
    expect(serverSettings.activate(null)).toBe(stock);
    expect(bus.connections).toBeNull();
    expect(complaint).toHaveBeenCalledOnce();
  });
});

describe('what is made anew', () => {
  const GONE = parseClose(4404, 'not_found') as Closed;

  async function made(
    request: [method: string, path: string],
    answer: unknown,
    status = 201,
    paths: string[] = ['terminals/websocket/1', 'api/kernels/k/channels']
  ): Promise<string[]> {
    const connections = new Connections({ baseUrl: HOME });
    for (const path of paths) {
      connections.state(path).park(GONE);
    }
    const body = status === 204 ? null : typeof answer === 'string' ? answer : JSON.stringify(answer);
    const response = new Response(body, { status });
    const look = releasing({ baseUrl: HOME, fetch: () => Promise.resolve(response) }, connections);
    const [method, path] = request;
    const got = await look(new Request(`${HOME}${path}`, { method }));
    expect(await got.text()).toBe(body ?? '');
    return [...connections.parked().keys()];
  }

  it.each([
    ['a terminal', ['POST', 'api/terminals?1'], { name: '1' }, 200, ['api/kernels/k/channels']],
    ['a kernel', ['POST', 'api/kernels'], { id: 'k' }, 201, ['terminals/websocket/1']],
    ['a kernel restarted', ['POST', 'api/kernels/k/restart'], { id: 'k' }, 200, ['terminals/websocket/1']],
    ['a session', ['POST', 'api/sessions'], { id: 's', kernel: { id: 'k' } }, 201, ['terminals/websocket/1']],
    [
      "a session's kernel",
      ['PATCH', 'api/sessions/s'],
      { kernel: { id: 'k' } },
      200,
      ['terminals/websocket/1']
    ]
  ] as const)('%s may be connected to', async (_what, [method, path], answer, status, left) => {
    expect(await made([method, path], answer, status)).toEqual(left);
  });

  it.each([
    ['a list', 'GET', 'api/terminals', [{ name: '1' }], 200],
    ['a refusal', 'POST', 'api/terminals', { name: '1' }, 403],
    ['an interrupt', 'POST', 'api/kernels/k/interrupt', null, 204],
    ['a session without a kernel', 'PATCH', 'api/sessions/s', { kernel: null }, 200],
    ['something without a name', 'POST', 'api/terminals', {}, 200],
    ['another terminal', 'POST', 'api/terminals', { name: '2' }, 200],
    ['something else', 'POST', 'api/contents', { id: 'k', name: '1' }, 201],
    ['something that begins alike', 'POST', 'api/kernelspecs', { id: 'k' }, 201]
  ] as const)('%s changes nothing', async (_what, method, path, answer, status) => {
    expect((await made([method, path], answer, status)).length).toBe(2);
  });

  it("an answer that cannot be read is the page's all the same", async () => {
    const complaint = vi.spyOn(console, 'error').mockImplementation(() => undefined);
    expect(await made(['POST', 'api/kernels'], 'no JSON')).toHaveLength(2);
    expect(complaint).toHaveBeenCalledOnce();
  });

  it('is not looked at while nothing is parked', async () => {
    const clone = vi.spyOn(Response.prototype, 'clone');
    expect(await made(['POST', 'api/kernels'], { id: 'k' }, 201, [])).toEqual([]);
    expect(clone).not.toHaveBeenCalled();
  });

  it('may be asked for by address', async () => {
    const connections = new Connections({ baseUrl: HOME });
    connections.state('terminals/websocket/1').park(GONE);
    const fetch = (): Promise<Response> => Promise.resolve(Response.json({ name: '1' }));
    const body = new ReadableStream(); // a `Request` of it would want more than this
    const look = releasing({ baseUrl: HOME, fetch }, connections);
    await look(`${HOME}api/terminals`);
    expect(connections.parked().size).toBe(1);
    await look(new URL(`${HOME}api/terminals`), { method: 'post', body });
    expect(connections.parked().size).toBe(0);
  });

  it('a request that fails, fails', async () => {
    const fetch = (): Promise<Response> => Promise.reject(new TypeError('no route'));
    const look = releasing({ baseUrl: HOME, fetch }, new Connections({ baseUrl: HOME }));
    await expect(look(`${HOME}api/terminals`)).rejects.toThrow('no route');
  });
});
