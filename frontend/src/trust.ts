/**
 * Whom a token may go to (C2.9): below the server's base, and there only to declared sockets.
 *
 * Pure functions; the same JSON vectors hold for the Python side.
 */

import { MARKER } from './constants.js';

/** What this client reads of the capabilities document; unknown members are ignored. */
export interface Capabilities {
  readonly api_versions: readonly string[];
  readonly base_url?: string;
  readonly ws_url?: string;
  readonly token?: { readonly subprotocol?: string; readonly in_url?: boolean };
  readonly reasons?: object;
  readonly sockets?: readonly string[];
}

/** How a token travels on a handshake. */
export type TokenRoute = 'subprotocol' | 'url' | 'none';

/**
 * How a browser sends its token to a server with these capabilities (C2.9). Where they name the
 * subprotocol there is no other way, whatever failed before.
 *
 * @param capabilities the document, `null` where the server said that it has none (404)
 * @param allowUrl whether the user allows tokens in URLs
 */
export function tokenRoute(capabilities: Pick<Capabilities, 'token'> | null, allowUrl: boolean): TokenRoute {
  if (capabilities?.token?.subprotocol === MARKER) {
    return 'subprotocol';
  }
  const taken = capabilities === null || capabilities.token?.in_url === true;
  return allowUrl && taken ? 'url' : 'none';
}

interface Place {
  readonly secure: boolean;
  readonly host: string;
  readonly path: string;
}

function place(address: string): Place | null {
  // What parsers drop or turn, one server this way and the next that way, has no place.
  if (/[\0- \x7f\\]/.test(address)) {
    return null;
  }
  const match = /^(https?|wss?):\/\/([^/?#]+)([^?#]*)/i.exec(address);
  if (!match) {
    return null;
  }
  const [, scheme = '', authority = '', path = ''] = match;
  const climbs = path.split('/').some(segment => segment.replace(/%2e/gi, '.') === '..');
  if (climbs || /%(2f|5c)/i.test(path) || authority.includes('@') || /:[0-9]{6,}$/.test(authority)) {
    return null;
  }
  try {
    const url = new URL(address.replace(/^ws/i, 'http'));
    return { secure: /^(https|wss)$/i.test(scheme), host: url.host, path: url.pathname };
  } catch {
    return null;
  }
}

/**
 * The path of `address` below `base` (without the leading slash), or `null` where it is not inside: same
 * security, host, port and path prefix, compared at `/` boundaries.
 */
export function pathBelow(base: string, address: string): string | null {
  const home = place(base);
  const other = place(address);
  if (!home || !other || home.secure !== other.secure || home.host !== other.host) {
    return null;
  }
  const prefix = `${home.path.replace(/\/+$/, '')}/`;
  return `${other.path}/`.startsWith(prefix) ? other.path.slice(prefix.length) : null;
}

/** Where a server is. */
export interface Addresses {
  readonly baseUrl: string;
  readonly wsUrl: string;
}

/**
 * The document's own addresses as far as they lie below the base that was asked (C4); what it does not
 * say, or says of another place, follows from `asked`.
 */
export function addresses(asked: string, capabilities: object | null): Addresses {
  const baseUrl = withSlash(asked);
  const wsUrl = baseUrl.replace(/^http/i, 'ws');
  const said = (capabilities ?? {}) as { readonly base_url?: unknown; readonly ws_url?: unknown };
  return {
    baseUrl: told(said.base_url, baseUrl, /^https?:/i),
    wsUrl: told(said.ws_url, wsUrl, /^wss?:/i)
  };
}

function told(said: unknown, otherwise: string, scheme: RegExp): string {
  const ours = typeof said === 'string' && scheme.test(said) && said.endsWith('/');
  return ours && pathBelow(otherwise, said) !== null ? said : otherwise;
}

/** An address with exactly one slash at its end. */
export function withSlash(address: string): string {
  return `${address.replace(/\/+$/, '')}/`;
}

/** Whether a path below the base is one of the declared sockets. */
export function isDeclared(path: string, templates: readonly string[]): boolean {
  return templates.some(template => expression(template).test(path));
}

/** What stock servers have: the answer where a server has no capabilities to declare its own. */
export const STOCK_SOCKETS: readonly string[] = [
  'api/kernels/{id}/channels',
  'terminals/websocket/{name}',
  'api/events/subscribe'
];

function expression(template: string): RegExp {
  const parts = template.split(/\{[a-z_0-9]+\}/i).map(part => part.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'));
  // A group at the end may hold a path of its own: collaboration documents are named so.
  const last = parts.length > 1 && parts[parts.length - 1] === '';
  if (last) {
    parts.pop();
  }
  return new RegExp(`^${parts.join('[^/]+')}${last ? '.+' : ''}$`);
}
