/**
 * When a path may be connected to again, and how (contract section 3, "advice").
 *
 * Knows time only as an argument and does no I/O: a table of what happened in, decisions out. The state of a
 * path outlives its sockets, because applications reconnect by making new ones.
 */

import type { Closed } from './reasons.js';

/** Seconds: the first wait, and the longest. */
export const BACKOFF = { first: 1, longest: 60 } as const;

/** Seconds: a server that wants more is not obeyed beyond this. */
export const LONGEST_RETRY_AFTER = 600;

/** A socket counts as healthy, and its path's failures as over, after so many seconds. */
export const HEALTHY_AFTER = 10;

/** Which credential an attempt shows. */
export type Credential = 'cookie' | 'token';

/** What to do after an attempt was refused. */
export type Decision =
  /** Try again at once, with another credential. */
  | { readonly action: 'again'; readonly credential: Credential }
  /** Nothing helps until the user acts: the next socket to this path stays CONNECTING. */
  | { readonly action: 'park' }
  /** The next socket to this path waits until `notBefore`, in seconds of the caller's clock. */
  | { readonly action: 'wait'; readonly notBefore: number };

/** The memory of one path. */
export class PathState {
  /** Refusals since the path was last healthy. */
  failures = 0;
  /** The reason it is parked for, or `null`. */
  parked: Closed | null = null;
  /** Not before this moment, in seconds. */
  notBefore = 0;
  /** What happened long before this moment, in seconds, says nothing any more. */
  private _fresh = 0;
  /** When a socket ended soon after it opened and without a reason. */
  private _stumbled: number | null = null;
  /** Whether it waits only because websockets seemed blocked. */
  private _blocked = false;
  private readonly _refused = new Set<Credential>();
  /** Which token was refused, where it was told. */
  private _token = '';

  /**
   * The credential of the first attempt: the cookie where the page has one, unless it was refused.
   *
   * @param token the one there is now; what was said of another does not hold for it
   */
  first(hasCookie: boolean, token: string): Credential {
    if (!token) {
      return 'cookie';
    }
    if (token !== this._token) {
      this._refused.delete('token');
    }
    const usual: Credential = hasCookie ? 'cookie' : 'token';
    const other: Credential = hasCookie ? 'token' : 'cookie';
    return this._refused.has(usual) && !this._refused.has(other) ? other : usual;
  }

  /**
   * An attempt was refused, or an open socket was ended, with a reason.
   *
   * @param now seconds of the caller's clock
   * @param random a number in [0, 1) for the jitter
   * @param token the one that the attempt showed
   */
  refused(
    closed: Closed,
    credential: Credential,
    hasToken: boolean,
    now: number,
    random: number,
    token: string
  ): Decision {
    if (closed.advice === 'authenticate') {
      this.distrust(credential, token);
      const other: Credential = credential === 'cookie' ? 'token' : 'cookie';
      const possible = other === 'cookie' || hasToken;
      if (possible && !this._refused.has(other)) {
        return { action: 'again', credential: other };
      }
    }
    if (closed.advice === 'retry' || closed.advice === 'retry_after') {
      // The jitter comes on top: all clients of a server that restarts were told the same second.
      const told = Math.min(closed.retryAfter ?? 0, LONGEST_RETRY_AFTER);
      return { action: 'wait', notBefore: this.failed(now + told, random) };
    }
    return this.park(closed);
  }

  /**
   * One more failure: the path is not to be connected to for longer than after the one before.
   *
   * @param now seconds of the caller's clock, or when the wait shall begin
   * @param random a number in [0, 1) for the jitter
   * @returns when it may be
   */
  failed(now: number, random: number): number {
    const longest = Math.min(BACKOFF.longest, BACKOFF.first * 2 ** this.failures);
    this.failures += 1;
    this.notBefore = now + longest * random;
    this._fresh = this.notBefore + BACKOFF.longest;
    this._blocked = false;
    return this.notBefore;
  }

  /** Like `failed`, because websockets seem blocked: the wait may end with that, see `unblocked`. */
  blocked(now: number, random: number): void {
    this.failed(now, random);
    this._blocked = true;
  }

  /**
   * A websocket to another path got through.
   *
   * @returns whether that ends a wait
   */
  unblocked(): boolean {
    const waited = this._blocked;
    if (waited) {
      this._blocked = false;
      this.notBefore = 0; // the failures still count: it may be blocked all the same
    }
    return waited;
  }

  /**
   * A socket opened and ended before it could count as healthy, and nothing was said: that may happen once,
   * to all that were open then.
   *
   * @param openedAt when it opened
   * @param now seconds of the caller's clock
   * @param random a number in [0, 1) for the jitter
   */
  stumbled(openedAt: number, now: number, random: number): void {
    this._fresh = Math.max(this._fresh, now + BACKOFF.longest);
    if (this._stumbled !== null && openedAt > this._stumbled) {
      this.failed(now, random);
    }
    this._stumbled = now;
  }

  /** Nothing helps until the user acts. */
  park(closed: Closed): Decision {
    this.parked = closed;
    return { action: 'park' };
  }

  /**
   * A credential turned out to be refused: begin with the other one.
   *
   * @param token the one that was shown
   */
  distrust(credential: Credential, token: string): void {
    this._refused.add(credential);
    if (credential === 'token') {
      this._token = token;
    }
  }

  /** Whether every credential there is was refused. */
  exhausted(hasToken: boolean): boolean {
    return this._refused.has('cookie') && (!hasToken || this._refused.has('token'));
  }

  /** The path works; how a socket to it ended does not matter any more. */
  healthy(): void {
    this.failures = 0;
    this.notBefore = 0;
    this._blocked = false;
    this._stumbled = null;
    this._refused.clear();
  }

  /** The user acted: forget what was refused. */
  released(): void {
    this.parked = null;
    this.healthy();
  }

  /**
   * Nobody waits for the path any more: who comes next begins anew, but not sooner than after a failure, as
   * an application may give up and come back for ever.
   *
   * @param now seconds of the caller's clock
   * @param random a number in [0, 1) for the jitter
   */
  abandoned(now: number, random: number): void {
    if (this.parked) {
      this.parked = null;
      this._refused.clear();
      this.failed(now, random);
    }
  }

  /** Whether there is nothing to remember. */
  get idle(): boolean {
    return !this.parked && this.failures === 0 && this._stumbled === null && this._refused.size === 0;
  }

  /** Whether what is remembered is old, and nobody need be kept from the path for it. */
  stale(now: number): boolean {
    return !this.parked && this._refused.size === 0 && this._fresh <= now;
  }
}
