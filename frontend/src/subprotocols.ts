/**
 * What a client offers in `Sec-WebSocket-Protocol` (contract section 1) and how a token leaves a URL.
 *
 * Pure functions; the same JSON vectors hold for the Python side.
 */

import { MARKER, REASON_MARKER } from './constants';

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
 * The list a client offers: existing protocols, marker, token, reason marker.
 *
 * @param existing what the application asked for
 * @param token the plain token; without one no marker is offered
 */
export function offerSubprotocols(existing: readonly string[], token: string | null): string[] {
  const offered = [...existing];
  if (token) {
    offered.push(MARKER, `${MARKER}.${encodeToken(token)}`);
  }
  offered.push(REASON_MARKER);
  return offered;
}

/** What an application sees as the chosen subprotocol: it knows nothing of the markers. */
export function visibleProtocol(answered: string): string {
  return answered === MARKER || answered === REASON_MARKER ? '' : answered;
}

/**
 * Take the parameter `token` out of an address where it is our own token; every other parameter stays
 * to the letter.
 */
export function withoutToken(address: string, token: string): string {
  const [head = '', ...rest] = address.split('?');
  if (rest.length === 0 || !token) {
    return address;
  }
  const kept = rest
    .join('?')
    .split('&')
    .filter(part => !isToken(part, token));
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
    return decodeURIComponent(part.slice(0, equals)) === 'token' && value === token;
  } catch {
    return false; // not percent-encoding, so nothing of ours
  }
}
