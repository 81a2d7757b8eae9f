/**
 * What a client offers in `Sec-WebSocket-Protocol` (contract section 1) and how a token leaves a URL.
 *
 * Pure functions; the same JSON vectors hold for the Python side.
 */

import { MARKER, REASON_MARKER } from './constants.js';

const TOKEN_BEARING = /^v[0-9]+\.token\.websocket\.jupyter\.org\./i;

/**
 * A token as it stands in a subprotocol: `encodeURIComponent`, with `(` and `)` escaped because browsers
 * throw on them.
 *
 * @throws URIError for a lone surrogate.
 */
export function encodeToken(token: string): string {
  return encodeURIComponent(token).replace(/\(/g, '%28').replace(/\)/g, '%29');
}

/**
 * The list a client offers: existing protocols, marker, token, reason marker, each once. Our token takes
 * the place of one that the application put there, because two are refused (C1.3).
 *
 * @param existing what the application asked for
 * @param token the plain token; without one no marker is offered
 * @param reasons whether to offer the reason marker
 * @throws URIError for a token with a lone surrogate.
 */
export function offerSubprotocols(
  existing: readonly string[],
  token: string | null,
  reasons = true
): string[] {
  const offered = new Set(existing);
  if (token) {
    for (const name of existing) {
      if (TOKEN_BEARING.test(name)) {
        offered.delete(name);
      }
    }
    offered.add(MARKER).add(`${MARKER}.${encodeToken(token)}`);
  }
  if (reasons) {
    offered.add(REASON_MARKER);
  }
  return [...offered];
}

/** What an application sees as the chosen subprotocol: it knows nothing of markers it did not offer. */
export function visibleProtocol(answered: string, existing: readonly string[]): string {
  const ours = answered === MARKER || answered === REASON_MARKER;
  return ours && !existing.includes(answered) ? '' : answered;
}

/**
 * Take the parameter `token` out of an address where it is our own token; every other parameter stays
 * to the letter.
 */
export function withoutToken(address: string, token: string): string {
  const mark = address.indexOf('?');
  if (mark < 0 || !token) {
    return address;
  }
  const parts = address.slice(mark + 1).split('&');
  const kept = parts.filter(part => !isToken(part, token));
  if (kept.length === parts.length) {
    return address;
  }
  const head = address.slice(0, mark);
  return kept.length ? `${head}?${kept.join('&')}` : head;
}

/** The same address with the token as parameter, as stock does for servers without the extension. */
export function withToken(address: string, token: string): string {
  return `${address}${address.includes('?') ? '&' : '?'}token=${encodeURIComponent(token)}`;
}

function isToken(part: string, token: string): boolean {
  const equals = part.indexOf('=');
  if (equals < 0) {
    return false;
  }
  try {
    const value = decodeURIComponent(part.slice(equals + 1).replace(/\+/g, ' '));
    // A page may have put a token with a plus sign into an address without escaping it.
    const unescaped = part.slice(equals + 1) === token;
    return decodeURIComponent(part.slice(0, equals)) === 'token' && (value === token || unescaped);
  } catch {
    return false; // not percent-encoding, so nothing of ours
  }
}
