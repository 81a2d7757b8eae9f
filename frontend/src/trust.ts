/**
 * Whom a token may go to (C2.9): below the server's base, and there only to declared sockets.
 */

import { MARKER } from './constants';

/** What this client reads of the capabilities document; unknown members are ignored. */
export interface Capabilities {
  readonly api_versions: readonly string[];
  readonly base_url?: string;
  readonly ws_url?: string;
  readonly token?: { readonly subprotocol?: string };
  readonly sockets?: readonly string[];
}

/** How a token travels on a handshake. */
export type TokenRoute = 'subprotocol' | 'url' | 'none';

/**
 * How a browser sends its token to a server with these capabilities (C2.9). Where they name the
 * subprotocol there is no other way, whatever failed before.
 */
export function tokenRoute(capabilities: Capabilities | null, allowUrl: boolean): TokenRoute {
  if (capabilities?.token?.subprotocol === MARKER) {
    return 'subprotocol';
  }
  return allowUrl ? 'url' : 'none';
}

interface Place {
  readonly secure: boolean;
  readonly host: string;
  readonly path: string;
}

function place(address: string): Place | null {
  const scheme = /^(https?|wss?):\/\//i.exec(address)?.[1]?.toLowerCase();
  if (!scheme || address.includes('\\') || /%(2f|5c)/i.test(address.split(/[?#]/)[0] ?? '')) {
    return null;
  }
  // The browser's own parser must not resolve what a server may read otherwise.
  const written = /^[a-z]+:\/\/[^/?#]*([^?#]*)/i.exec(address)?.[1] ?? '';
  if (written.split('/').some(segment => segment.replace(/%2e/gi, '.') === '..')) {
    return null;
  }
  let url: URL;
  try {
    url = new URL(address.replace(/^ws/i, 'http'));
  } catch {
    return null;
  }
  if (url.username || url.password) {
    return null;
  }
  return { secure: scheme === 'https' || scheme === 'wss', host: url.host, path: url.pathname };
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
