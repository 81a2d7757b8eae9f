/**
 * Made by tools/frontend_constants.py from the Python tables. Do not edit.
 */

export const MARKER = 'v1.token.websocket.jupyter.org';
export const REASON_MARKER = 'v1.reason.websocket.jupyter.org';
export const KERNEL = 'v1.kernel.websocket.jupyter.org';
export const API_VERSIONS = ['1.0'] as const;

/** What a client should do next. */
export type Advice = 'stop' | 'authenticate' | 'redirect' | 'retry' | 'retry_after';

export interface Reason {
  readonly code: number;
  readonly advice: Advice;
  readonly text: string;
}

const TABLE = {
  malformed_credentials: { code: 4400, advice: 'stop', text: 'the token could not be read' },
  bad_request: { code: 4400, advice: 'stop', text: 'the request was not understood' },
  credentials_missing: { code: 4401, advice: 'authenticate', text: 'sign in first' },
  token_expired: { code: 4401, advice: 'authenticate', text: 'the token has expired' },
  token_revoked: { code: 4401, advice: 'authenticate', text: 'the token was revoked' },
  url_token_refused: { code: 4401, advice: 'authenticate', text: 'this server takes no token from the URL' },
  token_rejected: { code: 4403, advice: 'authenticate', text: 'the token is not valid here' },
  forbidden: { code: 4403, advice: 'stop', text: 'you may not use this' },
  wrong_audience: { code: 4403, advice: 'stop', text: 'the token is for another path' },
  origin_refused: { code: 4403, advice: 'stop', text: 'the page\'s origin is not allowed' },
  not_found: { code: 4404, advice: 'stop', text: 'there is nothing here by that name' },
  unsupported_version: { code: 4406, advice: 'stop', text: 'no version in common' },
  open_timeout: { code: 4408, advice: 'retry', text: 'it took too long to open' },
  replaced: { code: 4409, advice: 'stop', text: 'the same session connected again' },
  out_of_order: { code: 4409, advice: 'retry', text: 'what came before this is missing' },
  gone: { code: 4410, advice: 'stop', text: 'the kernel was shut down' },
  resume_failed: { code: 4410, advice: 'retry', text: 'what was missed is lost' },
  other_server: { code: 4421, advice: 'redirect', text: 'this belongs to another server' },
  tls_required: { code: 4426, advice: 'stop', text: 'use an encrypted connection' },
  too_many_attempts: { code: 4429, advice: 'retry_after', text: 'too many wrong credentials' },
  too_many_connections: { code: 4429, advice: 'retry_after', text: 'too many connections' },
  internal_error: { code: 4500, advice: 'retry', text: 'the server failed' },
  draining: { code: 4503, advice: 'retry_after', text: 'the server is shutting down' },
  unavailable: { code: 4503, advice: 'retry_after', text: 'a part of the server is not available' },
  kernel_unresponsive: { code: 4504, advice: 'retry', text: 'the kernel does not answer' },
  backlog_full: { code: 4507, advice: 'retry', text: 'output was cut' }
} as const;

export type Slug = keyof typeof TABLE;

/** Every reason, those that only logs show included. */
export const REASONS: Readonly<Record<Slug, Reason>> = TABLE;
