/**
 * The plugin that gives the page its server settings: stock's, but for the class of websockets, and a
 * `fetch` that looks on when something is made anew.
 *
 * Nothing of it may cost anybody their page: where there is nothing to gain the plugin is not there at
 * all (`applies`), and where anything of ours fails the settings are stock's.
 */

import { PageConfig } from '@jupyterlab/coreutils';
import { IServerSettings, ServerConnection, type ServiceManagerPlugin } from '@jupyterlab/services';
import {
  Connections,
  readCapabilities,
  tokenWebSocket,
  type Capabilities,
  type ConnectionOptions
} from 'jupyter-token-ws';
import { bus } from './bus.js';

/** Under which name the server's pages carry its capabilities. */
const PAGE_OPTION = 'tokenWebSocket';

type Settings = ServerConnection.ISettings;

/** What tests put in the place of the browser's own. */
type Replaced = Pick<ConnectionOptions, 'WebSocket' | 'fetch'>;

/**
 * The capabilities that came with the page; `null` where it has none, or those of another server than
 * the one its settings name.
 */
export function ofPage({ baseUrl }: Pick<Settings, 'baseUrl'>): Capabilities | null {
  let found: Capabilities | null;
  try {
    found = readCapabilities(JSON.parse(PageConfig.getOption(PAGE_OPTION) || 'null'));
  } catch {
    return null;
  }
  if (!found || !isHome(baseUrl)) {
    return null;
  }
  // A proxy may tell the server another scheme and host than the browser's; the path it passes on.
  const said = found.base_url === undefined ? null : address(found.base_url);
  return said && withSlash(said.pathname) !== withSlash(new URL(baseUrl).pathname) ? null : found;
}

/**
 * Whether the plugin has anything to do: the page's server has our part, or the page is of one server and
 * works with another, which can only be asked. Frontends before JupyterLab 4.4 take no settings from anybody.
 */
export function applies(): boolean {
  try {
    if ((IServerSettings as unknown) === undefined) {
      return false;
    }
    const settings = ServerConnection.makeSettings();
    return ofPage(settings) !== null || !isHome(settings.baseUrl);
  } catch (error) {
    complain(error);
    return false;
  }
}

/** The page's settings, and the connections behind them on the bus. */
export function makeSettings(replaced: Replaced = {}): Settings {
  const stock = ServerConnection.makeSettings();
  try {
    const capabilities = ofPage(stock);
    const connections = new Connections({
      baseUrl: stock.baseUrl,
      wsUrl: stock.wsUrl,
      token: () => settings.token,
      // Where stock puts no token into the address it counts on the cookie. A page from elsewhere is told
      // no reason for which its cookie was refused, so there the cookie comes second.
      cookies: !stock.appendToken && isHome(stock.baseUrl),
      ...(capabilities && { capabilities }),
      patient: true,
      onEvent: bus.publish,
      ...replaced
    });
    const settings = ServerConnection.makeSettings({
      WebSocket: tokenWebSocket(connections),
      fetch: releasing(stock, connections)
    });
    bus.provide(settings, connections);
    return settings;
  } catch (error) {
    complain(error);
    bus.provide(stock, null);
    return stock;
  }
}

/**
 * The `fetch` of `settings`; what its answers say was made may be connected to at once, though it was
 * refused under the same name before: a terminal gets the number of one that is gone, a kernel that was
 * restarted keeps its id.
 */
export function releasing(
  settings: Pick<Settings, 'fetch' | 'baseUrl'>,
  connections: Connections
): typeof fetch {
  const stock = settings.fetch;
  return async (input: RequestInfo | URL, init?: RequestInit): Promise<Response> => {
    const response = await stock(input as RequestInfo, init);
    try {
      // Not by a `Request` of our own: the browser takes no second one with the same body.
      const given = input instanceof Request ? input : null;
      const method = (init?.method ?? given?.method ?? 'GET').toUpperCase();
      const path = madeBy(method, (given?.url ?? String(input)).slice(settings.baseUrl.length));
      if (path && [200, 201].includes(response.status) && connections.parked().size > 0) {
        const made = path((await response.clone().json()) as Made);
        if (made !== null && connections.parked().has(made)) {
          connections.release(made);
        }
      }
    } catch (error) {
      complain(error); // the answer is the page's all the same
    }
    return response;
  };
}

/** What the server answers of something that was made. */
interface Made {
  readonly id?: unknown;
  readonly name?: unknown;
  readonly kernel?: { readonly id?: unknown } | null;
}

/** How to read from the answer which socket there is now, for requests that make one. */
function madeBy(method: string, path: string): ((made: Made) => string | null) | null {
  const [, kind] = /^api\/(terminals|kernels|sessions)(?:[/?]|$)/.exec(path) ?? [];
  if (!kind || !['POST', 'PATCH'].includes(method)) {
    return null;
  }
  const named = (name: unknown, path: (name: string) => string): string | null =>
    typeof name === 'string' ? path(encodeURIComponent(name)) : null;
  return made =>
    kind === 'terminals'
      ? named(made.name, name => `terminals/websocket/${name}`)
      : named(kind === 'kernels' ? made.id : made.kernel?.id, id => `api/kernels/${id}/channels`);
}

function address(text: string): URL | null {
  try {
    return new URL(text);
  } catch {
    return null;
  }
}

function withSlash(path: string): string {
  return path.replace(/\/*$/, '/');
}

/** Whether an address is of the server that the page came from. */
function isHome(url: string): boolean {
  return address(url)?.origin === location.origin;
}

function complain(error: unknown): void {
  console.error('jupyter_token_ws: going on as JupyterLab does without it.', error);
}

export const serverSettings: ServiceManagerPlugin<Settings> = {
  id: 'jupyter_token_ws:server-settings',
  description: 'Keeps tokens out of websocket addresses, and hears why connections are refused.',
  autoStart: true,
  provides: IServerSettings,
  activate: () => makeSettings()
};
