/**
 * Reads close frames (contract section 3). The table itself is made from the Python one.
 */

import { REASONS, type Advice, type Slug } from './constants.js';

/** A refusal or an end that the server explained. */
export interface Closed {
  readonly slug: Slug;
  readonly code: number;
  readonly advice: Advice;
  /** A constant sentence for people, from our own table: never text from the peer. */
  readonly text: string;
  /** Seconds not to come back before, where the server said so. */
  readonly retryAfter: number | null;
}

/** What a server would have said, where it is known without being said. */
export function reasonOf(slug: Slug): Closed {
  const { code, advice, text } = REASONS[slug];
  return { slug, code, advice, text, retryAfter: null };
}

const FORM = /^([a-z_]+)(?:;retry_after=([0-9]{1,9}))?(?:: [^]*)?$/;

/**
 * What a close frame says, or `null` where it is not one of ours: a slug counts only if it belongs to the
 * code, because proxied applications use 44xx too.
 */
export function parseClose(code: number, reason: string): Closed | null {
  const match = FORM.exec(reason);
  const slug = match?.[1];
  if (!match || !slug || !Object.prototype.hasOwnProperty.call(REASONS, slug)) {
    return null;
  }
  const found = reasonOf(slug as Slug);
  if (found.code !== code) {
    return null;
  }
  return { ...found, retryAfter: match[2] === undefined ? null : Number(match[2]) };
}
