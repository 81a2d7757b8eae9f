import { ServerConnection } from '@jupyterlab/services';
import { Connections } from 'jupyter-token-ws';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { Server, watchDeletions } from '../../src/ui/server.js';

const BASE = 'https://host/user/ann/';

interface Asked {
  readonly url: string;
  readonly init: RequestInit & { readonly headers?: { readonly Authorization?: string } };
}

let asked: Asked[];
let answer: (asked: Asked) => Response | Promise<Response>;
let tokens: string[];

beforeEach(() => {
  asked = [];
  tokens = [];
  answer = () => new Response('{}');
  vi.stubGlobal('location', new URL(`${BASE}lab`));
});

afterEach(() => {
  vi.unstubAllGlobals();
});

function serverWith({
  cookies = true,
  token = 'old',
  capabilities = {} as object | null | Error
} = {}): Server {
  const fetch = (input: RequestInfo | URL, init: RequestInit = {}): Promise<Response> => {
    const one = { url: String(input), init } as Asked;
    asked.push(one);
    return Promise.resolve().then(() => answer(one));
  };
  const settings = {
    ...ServerConnection.makeSettings({ baseUrl: BASE, wsUrl: BASE.replace('http', 'ws'), token }),
    fetch
  } as ServerConnection.ISettings;
  const connections = new Connections({ baseUrl: BASE, cookies, fetch });
  vi.spyOn(connections, 'capabilities').mockImplementation(() =>
    capabilities instanceof Error ? Promise.reject(capabilities) : Promise.resolve(capabilities as never)
  );
  return new Server({
    settings,
    connections,
    setToken: now => {
      tokens.push(now);
      (settings as { token: string }).token = now;
    }
  });
}

const status = (code: number) => (): Response => new Response('{}', { status: code });
const fails = (): never => {
  throw new TypeError('offline');
};
const redirect = (): Response => Object.defineProperty(new Response(), 'type', { value: 'opaqueredirect' });

describe('whether the server knows us', () => {
  it.each([
    [status(200), true],
    [status(401), false],
    [status(403), false],
    [redirect, false],
    [status(500), null],
    [status(404), null],
    [fails, null]
  ])('by cookie and token, as JupyterLab asks', async (how, known) => {
    answer = how;
    expect(await serverWith().knows()).toBe(known);
    expect(asked).toHaveLength(1);
    expect(asked[0]).toMatchObject({
      url: `${BASE}api/me`,
      init: {
        headers: { Authorization: 'token old' },
        credentials: 'same-origin',
        cache: 'no-store',
        redirect: 'manual'
      }
    });
  });

  it('by cookie alone where there is no token', async () => {
    expect(await serverWith({ token: '' }).knows()).toBe(true);
    expect(asked[0]?.init.headers).toBe(undefined);
  });

  it('by the token alone where sockets have no cookie', async () => {
    expect(await serverWith({ cookies: false }).knows()).toBe(true);
    expect(asked[0]).toMatchObject({
      init: { headers: { Authorization: 'token old' }, credentials: 'omit' }
    });
    answer = fails;
    expect(await serverWith({ cookies: false }).knows()).toBe(null);
    expect(tokens).toEqual([]);
  });

  const page = (config: string): string =>
    `<html><script id="jupyter-config-data" type="application/json">${config}</script></html>`;

  /** A page that has the token by now, and a server that takes `good`. */
  const renewed = (html: string) => {
    return ({ url, init }: Asked): Response =>
      url === `${BASE}lab`
        ? new Response(html)
        : new Response('{}', { status: init.headers?.Authorization === 'token good' ? 200 : 403 });
  };

  it('takes the token that the page would get now', async () => {
    answer = renewed(page('{"token": "good"}'));
    const server = serverWith({ cookies: false });
    expect(await server.knows()).toBe(true);
    expect(tokens).toEqual(['good']);
    expect(asked[1]).toMatchObject({ url: `${BASE}lab`, init: { credentials: 'same-origin' } });
    expect(await server.knows()).toBe(true);
    expect(tokens).toEqual(['good']);
  });

  it.each([
    page('{"token": "old"}'),
    page('{"token": "bad"}'),
    page('{"token": 1}'),
    page('nonsense'),
    '<html>'
  ])('unless it is none, or no better: %s', async html => {
    answer = renewed(html);
    expect(await serverWith({ cookies: false }).knows()).toBe(false);
    expect(tokens).toEqual([]);
  });

  it('a page from elsewhere has nothing to ask for', async () => {
    vi.stubGlobal('location', new URL('https://elsewhere/lab'));
    answer = status(403);
    const server = serverWith({ cookies: false });
    expect([server.foreign, await server.knows(), asked.length]).toEqual([true, false, 1]);
    expect([serverWith().foreign, serverWith({ cookies: false }).base]).toEqual([false, BASE]);
  });

  it('takes a token from the user if it is good', async () => {
    answer = renewed('');
    const server = serverWith({ cookies: false });
    expect([await server.tryToken('bad'), await server.tryToken('good')]).toEqual([false, true]);
    expect(tokens).toEqual(['good']);
  });
});

describe('where to sign in', () => {
  it.each([{}, new Error('offline')])('is behind whatever login the server has', async capabilities => {
    expect(await serverWith({ capabilities }).loginAddress()).toBe(`${BASE}api/token-ws/signed-in`);
  });

  it('is the usual page of a server without our part', async () => {
    const address = await serverWith({ capabilities: null }).loginAddress();
    expect(address).toBe(`${BASE}login?next=%2Fuser%2Fann%2F`);
  });
});

describe('the round trip', () => {
  it('is measured without showing anything to anybody', async () => {
    expect(await serverWith().roundTrip()).toBeGreaterThanOrEqual(0);
    expect(asked[0]).toMatchObject({
      url: `${BASE}api/token-ws/capabilities`,
      init: { credentials: 'omit', cache: 'no-store' }
    });
    expect(asked[0]?.init.headers).toBe(undefined);
  });

  it('needs a server', async () => {
    for (const how of [fails, status(502), status(503), status(504)]) {
      answer = how;
      expect(await serverWith().roundTrip()).toBe(null);
    }
    answer = status(404);
    expect(await serverWith().roundTrip()).not.toBe(null);
  });
});

describe('another server', () => {
  const says =
    (found: unknown, code = 200) =>
    () =>
      new Response(JSON.stringify(found), { status: code });

  it('is asked for', async () => {
    answer = says({ server: { base_url: 'https://other/user/ann/' } });
    expect(await serverWith().otherServer()).toBe('https://other/user/ann/');
    expect(asked[0]).toMatchObject({
      url: `${BASE}api/token-ws/login`,
      init: { headers: { Authorization: 'token old' } }
    });
  });

  it.each([
    says({ server: { base_url: 'javascript:alert(1)' } }),
    says({ server: { base_url: 'other' } }),
    says({ server: { base_url: 1 } }),
    says({ server: {} }),
    says({}),
    says(null),
    says({ server: { base_url: 'https://other/' } }, 403),
    () => new Response('<html>', { status: 404 }),
    fails
  ])('is not where nobody says so', async how => {
    answer = how as never;
    expect(await serverWith().otherServer()).toBe(null);
  });
});

it('deletions are seen before the server is asked', async () => {
  const order: unknown[] = [];
  const fetch = vi.fn(() => {
    order.push('asked');
    return Promise.resolve(new Response('{}'));
  });
  const settings = {
    ...ServerConnection.makeSettings({ baseUrl: BASE }),
    fetch
  } as ServerConnection.ISettings;
  watchDeletions(settings, path => order.push(path));
  const request = (url: string, method = 'DELETE'): Promise<Response> =>
    settings.fetch(new Request(url, { method }));
  await request(`${BASE}api/sessions/1?123`);
  await request(`${BASE}api/kernels/1`, 'POST');
  await request('https://elsewhere/api/kernels/1');
  await settings.fetch(`${BASE}api/kernels/1`, { method: 'DELETE' });
  expect(order).toEqual(['api/sessions/1', 'asked', 'asked', 'asked', 'asked']);
});
