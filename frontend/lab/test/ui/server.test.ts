import { ServerConnection } from '@jupyterlab/services';
import { Connections } from 'jupyter-token-ws';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { Server, watchDeletions } from '../../src/ui/server.js';

const BASE = 'https://host/user/ann/';

interface Asked {
  /** Without what is there to outwit caches. */
  readonly url: string;
  /** The token that is shown, or `null`. */
  readonly token: string | null;
  readonly init: Pick<Request, 'credentials' | 'redirect' | 'headers'>;
}

let asked: Asked[];
let answer: (asked: Asked) => Response | Promise<Response>;
let tokens: string[];
const agreed = vi.fn<(user: string) => Promise<boolean>>();

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
    const request = new Request(input, init);
    const token = request.headers.get('Authorization')?.replace(/^token /, '') ?? null;
    const one = { url: request.url.replace(/\?\d+$/, ''), token, init: request };
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
    [status(500), null],
    [status(404), null],
    [fails, null]
  ])('is asked by cookie and token, as JupyterLab asks', async (how, known) => {
    answer = how;
    expect(await serverWith().knows(agreed)).toBe(known);
    expect(asked).toHaveLength(1);
    expect(asked[0]).toMatchObject({
      url: `${BASE}api/me`,
      token: 'old',
      init: { credentials: 'same-origin', redirect: 'manual' }
    });
  });

  it.each([status(401), status(403), redirect])(
    'it does not where it refuses or asks for a login',
    async how => {
      answer = how;
      expect(await serverWith({ token: '' }).knows(agreed)).toBe(false);
      expect(asked.map(one => one.token)).toEqual([null]);
      expect(await serverWith().knows(agreed)).toBe(false);
      expect(tokens).toEqual([]);
    }
  );

  it('is asked by the token alone where sockets have no cookie', async () => {
    expect(await serverWith({ cookies: false }).knows(agreed)).toBe(true);
    expect(asked[0]).toMatchObject({ token: 'old', init: { credentials: 'omit' } });
    answer = fails;
    expect(await serverWith({ cookies: false }).knows(agreed)).toBe(null);
    expect(tokens).toEqual([]);
  });

  const page = (config: string): string =>
    `<html><script id="jupyter-config-data" type="application/json">${config}</script></html>`;

  /** A server that takes the token `good` and, where no token is shown, the cookie; the page is `html`. */
  const signedIn = (html: string | null) => {
    return ({ url, token, init }: Asked): Response => {
      if (url === `${BASE}lab`) {
        return html === null ? fails() : new Response(html);
      }
      const good = token === null ? init.credentials !== 'omit' : token === 'good';
      return new Response('{}', { status: good ? 200 : 403 });
    };
  };

  it.each([true, false])('takes the token that the page would get now; cookies: %s', async cookies => {
    vi.stubGlobal('location', new URL(`${BASE}lab?reset#x`));
    answer = signedIn(page('{"token": "good"}'));
    const server = serverWith({ cookies });
    expect(await server.knows(agreed)).toBe(true);
    expect(tokens).toEqual(['good']);
    expect(asked[2]).toMatchObject({ url: `${BASE}lab`, init: { credentials: 'same-origin' } });
    expect(await server.knows(agreed)).toBe(true);
    expect(tokens).toEqual(['good']);
  });

  const useless = ['{"token": "old"}', '{"token": "bad"}', '{"token": ""}', '{"token": 1}', 'nonsense'];

  it.each([...useless.map(page), '<html>', null])(
    'goes on without a token where the page has none that is better: %s',
    async html => {
      answer = signedIn(html);
      expect(await serverWith().knows(agreed)).toBe(true);
      expect(tokens).toEqual(['']);
      tokens = [];
      expect(await serverWith({ cookies: false }).knows(agreed)).toBe(false);
      expect(tokens).toEqual([]);
    }
  );

  it('shows what else a Hub wants beside a cookie', async () => {
    document.cookie = '_xsrf=2|abc';
    await serverWith({ token: '' }).knows(agreed);
    expect(asked[0]?.init.headers.get('X-XSRFToken')).toBe('2|abc');
  });

  it('does not ask for the page before somebody signed in', async () => {
    answer = ({ token }) => (token ? status(403)() : fails());
    expect(await serverWith().knows(agreed)).toBe(null);
    expect(asked.map(one => one.url)).toEqual(Array(2).fill(`${BASE}api/me`));
  });

  it('a page from elsewhere has nothing to ask for', async () => {
    vi.stubGlobal('location', new URL('https://elsewhere/lab'));
    answer = status(403);
    const server = serverWith({ cookies: false });
    expect([server.foreign, await server.knows(agreed), asked.length]).toEqual([true, false, 1]);
    expect([serverWith().foreign, serverWith({ cookies: false }).base]).toEqual([false, BASE]);
  });

  it('takes a token from the user if it is good', async () => {
    answer = signedIn('');
    const server = serverWith({ cookies: false });
    expect([await server.tryToken('bad'), await server.tryToken('good')]).toEqual([false, true]);
    expect(tokens).toEqual(['good']);
  });
});

describe('whose page it is', () => {
  const is = (username: unknown) => () => new Response(JSON.stringify({ identity: { username } }));
  const ID = '0123456789abcdef0123456789abcdef';

  beforeEach(() => {
    agreed.mockReset();
    agreed.mockResolvedValue(false);
  });

  it('is found out once, and again where that failed', async () => {
    const server = serverWith();
    for (const [how, times] of [
      [fails, 1],
      [status(403), 2],
      [is('ann'), 3],
      [is('bob'), 3]
    ] as const) {
      answer = how;
      await Promise.all([server.meet(), server.meet()]);
      expect(asked).toHaveLength(times);
    }
    expect(await server.knows(agreed)).toBe(false);
    expect(agreed.mock.calls).toEqual([['bob']]);
  });

  it('is asked for as sockets are', async () => {
    await serverWith({ cookies: false }).meet();
    expect(asked[0]).toMatchObject({ token: 'old', init: { credentials: 'omit' } });
  });

  it('somebody else is not taken for them before the user agrees, and is them then', async () => {
    const server = serverWith();
    answer = is('ann');
    expect(await server.knows(agreed)).toBe(true);
    answer = ({ url, token }) =>
      url === `${BASE}lab`
        ? new Response('<script id="jupyter-config-data">{"token": "good"}</script>')
        : token === 'old'
          ? status(403)()
          : is('bob')();
    expect([await server.knows(agreed), tokens]).toEqual([false, []]);
    agreed.mockResolvedValue(true);
    expect([await server.knows(agreed), tokens]).toEqual([true, ['good']]);
    expect(await server.knows(agreed)).toBe(true);
    expect(agreed.mock.calls).toEqual([['bob'], ['bob']]);
  });

  it.each([
    [ID, ID.replace('0', 'f')],
    ['ann', 'ann'],
    ['ann', ID],
    [ID, 'ann'],
    ['ann', 1],
    ['ann', undefined]
  ])('is not asked where names say nothing: %s, %s', async (before, after) => {
    const server = serverWith();
    answer = is(before);
    await server.meet();
    answer = is(after);
    expect(await server.knows(agreed)).toBe(true);
    answer = () => new Response('<html>');
    expect(await server.knows(agreed)).toBe(true);
    expect(agreed).not.toHaveBeenCalled();
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
  it('is measured without showing a token', async () => {
    expect(await serverWith().roundTrip()).toBeGreaterThanOrEqual(0);
    expect(asked[0]).toMatchObject({
      url: `${BASE}api/token-ws/capabilities`,
      init: { credentials: 'same-origin' } // a proxy may have a login of its own
    });
    expect(asked[0]?.token).toBe(null);
  });

  it('needs a server, and a proxy without one is none whatever it answers', async () => {
    const page = (): Response => new Response('<html>', { headers: { 'Content-Type': 'text/html' } });
    for (const how of [fails, page, ...[403, 404, 429, 502, 503, 504].map(status)]) {
      answer = how;
      expect(await serverWith().roundTrip()).toBe(null);
    }
    expect(asked[0]?.init.redirect).toBe('error');
  });

  it.each([
    [null, true],
    [new Error('offline'), false]
  ])('to a server that lacks our part is as good, where that is known: %s', async (capabilities, good) => {
    answer = status(404);
    expect((await serverWith({ capabilities }).roundTrip()) !== null).toBe(good);
    answer = status(502);
    expect(await serverWith({ capabilities }).roundTrip()).toBe(null);
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
      token: 'old',
      init: { redirect: 'error' }
    });
    await serverWith({ token: '' }).otherServer();
    expect(asked[1]?.token).toBe(null);
  });

  it.each([
    says({ server: { base_url: 'javascript:alert(1)' } }),
    says({ server: { base_url: 'other' } }),
    says({ server: { base_url: 1 } }),
    says({ server: { base_url: BASE } }),
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
