/**
 * The plain requests of the user interface: whether the server knows us, how long it takes to answer, which
 * token the page would get now, and where "our" server is.
 */

import { ServerConnection } from '@jupyterlab/services';
import type { Connections } from 'jupyter-token-ws';

const CAPABILITIES = 'api/token-ws/capabilities';
const SIGNED_IN = 'api/token-ws/signed-in';
const LOGIN = 'api/token-ws/login';
const WHO_AM_I = 'api/me';

/** Milliseconds that a question may take. */
const TIMEOUT = 10_000;

const WITHOUT_COOKIE: RequestInit = { credentials: 'omit' };

/** The names that Jupyter Server gives users who only show a token or a password: another each time. */
const MADE_UP = /^[0-9a-f]{32}$/;

/** Who the server says we are, empty where that is nobody in particular; `false` where it does not know us. */
type User = string | false;

export interface ServerOptions {
  readonly settings: ServerConnection.ISettings;
  readonly connections: Connections;
  /** Use this token from now on, for everything. */
  readonly setToken: (token: string) => void;
}

/** Look on when the page has something deleted: `onDelete` is told the path, before the server is. */
export function watchDeletions(settings: ServerConnection.ISettings, onDelete: (path: string) => void): void {
  const { fetch, baseUrl } = settings;
  (settings as { fetch: typeof fetch }).fetch = (input: RequestInfo | URL, init?: RequestInit) => {
    if (input instanceof Request && input.method === 'DELETE' && input.url.startsWith(baseUrl)) {
      onDelete(input.url.slice(baseUrl.length).replace(/[?#].*$/, ''));
    }
    return fetch(input as RequestInfo, init);
  };
}

export class Server {
  private readonly _options: ServerOptions;
  /** Whose page this is; `null` as long as that is not known. */
  private _user: string | null = null;
  private _meeting: Promise<void> | null = null;

  constructor(options: ServerOptions) {
    this._options = options;
  }

  get base(): string {
    return this._options.connections.baseUrl;
  }

  /** Whether the page was loaded from elsewhere, and signing in at the server is of no use to it. */
  get foreign(): boolean {
    return !this._options.connections.cookies && new URL(this.base).origin !== location.origin;
  }

  /** Find out whose page this is, while it is still signed in. */
  async meet(): Promise<void> {
    if (this._user === null) {
      const { connections, settings } = this._options;
      this._meeting ??= this._admits(settings.token, connections.cookies ? {} : WITHOUT_COOKIE).then(user => {
        this._meeting = null;
        if (user) {
          this._user ??= user;
        }
      });
      await this._meeting;
    }
  }

  /**
   * Whether the server knows us, so that sockets and plain requests are admitted; `null` where that could not
   * be found out.
   *
   * Who signs in gets a cookie, and the page goes on with its old token. Where that is in the way (a server
   * may look at no cookie beside a token, and some pages' sockets have none), the page takes the token that it
   * would get if it was loaded now.
   *
   * What is on the page is that of who opened it: where it would go on as somebody else, `agreed` is asked
   * before anything is taken over.
   */
  async knows(agreed: (user: string) => Promise<boolean>): Promise<boolean | null> {
    const { connections, settings, setToken } = this._options;
    const user = await this._admits(settings.token, connections.cookies ? {} : WITHOUT_COOKIE);
    if (user !== false || !settings.token || this.foreign) {
      return this._mayBe(user, agreed);
    }
    const known = await this._mayBe(await this._admits(''), agreed);
    if (!known) {
      return known;
    }
    const token = await this._tokenOfPage();
    if (token && token !== settings.token && isKnown(await this._admits(token, WITHOUT_COOKIE))) {
      setToken(token);
      return true;
    }
    if (connections.cookies) {
      setToken(''); // none is better than one that is refused
    }
    return connections.cookies;
  }

  /** Use this token if the server takes it. */
  async tryToken(token: string): Promise<boolean> {
    const taken = isKnown(await this._admits(token, WITHOUT_COOKIE));
    if (taken) {
      this._options.setToken(token);
    }
    return taken;
  }

  /**
   * Where to sign in: a page that only who is signed in may see, so that whatever login the server has, a
   * Hub's included, comes before it. A server without our part has only the usual one.
   */
  async loginAddress(): Promise<string> {
    const capabilities = await this._options.connections.capabilities().catch(() => undefined);
    if (capabilities === null) {
      return `${this.base}login?next=${encodeURIComponent(new URL(this.base).pathname)}`;
    }
    return this.base + SIGNED_IN;
  }

  /** Seconds until the server answers; `null` where it does not. */
  async roundTrip(): Promise<number | null> {
    const begin = performance.now();
    try {
      const response = await this._get(CAPABILITIES, { redirect: 'error' });
      const taken = (performance.now() - begin) / 1000;
      // A proxy that has no server behind it answers too, with whatever it likes.
      const right = response.ok
        ? !response.headers.get('Content-Type')?.startsWith('text/html')
        : response.status === 404 && (await this._isWithoutUs());
      return right ? taken : null;
    } catch {
      return null;
    }
  }

  /** Whether this server is known to lack our part. */
  private async _isWithoutUs(): Promise<boolean> {
    return (await this._options.connections.capabilities()) === null;
  }

  /** The address of the server that is ours, where this one knows it and it is another. */
  async otherServer(): Promise<string | null> {
    try {
      const { token } = this._options.settings;
      const headers = token ? { Authorization: `token ${token}` } : {};
      // Not by way of anybody else: what is opened is what this server says, and the token is only for it.
      const response = await this._get(LOGIN, { headers, redirect: 'error' });
      const found = (await response.json()) as { server?: { base_url?: unknown } } | null;
      const address = found?.server?.base_url;
      if (!response.ok || typeof address !== 'string' || !isPage(address)) {
        return null;
      }
      const there = new URL(address).href;
      return there === new URL(this._options.settings.baseUrl).href ? null : there;
    } catch {
      return null;
    }
  }

  private async _mayBe(
    user: User | null,
    agreed: (user: string) => Promise<boolean>
  ): Promise<boolean | null> {
    if (!isKnown(user)) {
      return user;
    }
    if (user && this._user && user !== this._user && !(await agreed(user))) {
      return false;
    }
    this._user = user || this._user;
    return true;
  }

  private async _admits(token: string, init: RequestInit = {}): Promise<User | null> {
    const { settings } = this._options;
    try {
      // As JupyterLab asks: under a Hub, a cookie counts only together with what it adds.
      const response = await ServerConnection.makeRequest(
        this.base + WHO_AM_I,
        {
          redirect: 'manual', // to a login page
          cache: 'no-store',
          signal: AbortSignal.timeout(TIMEOUT),
          ...init
        },
        { ...settings, token }
      );
      if (response.type === 'opaqueredirect' || [401, 403].includes(response.status)) {
        return false;
      }
      return response.ok ? await nameIn(response) : null;
    } catch {
      return null;
    }
  }

  /** What a page that was loaded now would hold. */
  private async _tokenOfPage(): Promise<string | null> {
    try {
      const response = await this._options.settings.fetch(location.origin + location.pathname, {
        cache: 'no-store',
        credentials: 'same-origin',
        signal: AbortSignal.timeout(TIMEOUT)
      });
      const page = new DOMParser().parseFromString(await response.text(), 'text/html');
      const config = page.getElementById('jupyter-config-data')?.textContent ?? '{}';
      const { token } = JSON.parse(config) as { token?: unknown };
      return typeof token === 'string' ? token : null;
    } catch {
      return null;
    }
  }

  private _get(path: string, init: RequestInit): Promise<Response> {
    const { settings } = this._options;
    return settings.fetch.call(null, this.base + path, {
      ...settings.init,
      cache: 'no-store',
      signal: AbortSignal.timeout(TIMEOUT),
      ...init
    });
  }
}

function isKnown(user: User | null): user is string {
  return typeof user === 'string';
}

/** The name in an answer to who we are; empty where it says nothing about that. */
async function nameIn(response: Response): Promise<string> {
  const said = (await response.json().catch(() => null)) as { identity?: { username?: unknown } } | null;
  const name = said?.identity?.username;
  return typeof name === 'string' && !MADE_UP.test(name) ? name : '';
}

/** Only what a browser opens as a page: anything else would be code. */
function isPage(address: string): boolean {
  try {
    return ['http:', 'https:'].includes(new URL(address).protocol);
  } catch {
    return false;
  }
}
