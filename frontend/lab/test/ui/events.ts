/** Events as the connections tell them. */

import { REASONS, type Cause, type Closed, type ConnectionEvent, type Slug } from 'jupyter-token-ws';

export const kernel = (id: string | number): string => `api/kernels/${id}/channels`;
export const terminal = (name: string | number): string => `terminals/websocket/${name}`;
export const EVENTS = 'api/events/subscribe';

export function closed(slug: Slug, retryAfter: number | null = null): Closed {
  return { slug, retryAfter, ...REASONS[slug] };
}

export const open = (path: string): ConnectionEvent => ({ kind: 'open', path });
export const released = (path: string): ConnectionEvent => ({ kind: 'released', path });
export const abandoned = (path: string): ConnectionEvent => ({ kind: 'abandoned', path });
export const refused = (path: string, slug: Slug): ConnectionEvent => ({
  kind: 'refused',
  path,
  closed: closed(slug)
});
export const parked = (path: string, slug: Slug): ConnectionEvent => ({
  kind: 'parked',
  path,
  closed: closed(slug)
});
export const waiting = (path: string, slug: Slug, seconds: number): ConnectionEvent => ({
  kind: 'waiting',
  path,
  closed: closed(slug, Math.floor(seconds)),
  seconds
});
export const unexplained = (path: string, cause: Cause): ConnectionEvent => ({
  kind: 'unexplained',
  path,
  cause
});
