import { describe, expect, it } from 'vitest';

import { BACKOFF, PathState, type Credential } from '../src/policy';
import { parseClose, type Closed } from '../src/reasons';

function closed(code: number, reason: string): Closed {
  const found = parseClose(code, reason);
  if (!found) {
    throw new Error(reason);
  }
  return found;
}

const REJECTED = closed(4403, 'token_rejected');
const MISSING = closed(4401, 'credentials_missing');
const FORBIDDEN = closed(4403, 'forbidden');
const FAILED = closed(4500, 'internal_error');
const DRAINING = closed(4503, 'draining;retry_after=7');

describe('the first credential', () => {
  it.each<[boolean, boolean, Credential]>([
    [true, true, 'cookie'],
    [true, false, 'cookie'],
    [false, true, 'token'],
    [false, false, 'cookie']
  ])('cookies %s, token %s: %s', (cookies, token, credential) => {
    expect(new PathState().first(cookies, token ? 'one' : '')).toBe(credential);
  });

  it('is the other one where the usual was refused', () => {
    const state = new PathState();
    state.refused(MISSING, 'cookie', true, 0, 0, 'one');
    expect(state.first(true, 'one')).toBe('token');
    const other = new PathState();
    other.refused(REJECTED, 'token', true, 0, 0, 'one');
    expect(other.first(false, 'one')).toBe('cookie');
  });

  it('is the token again where it is another one than was refused', () => {
    const state = new PathState();
    state.refused(REJECTED, 'token', true, 0, 0, 'one');
    expect(state.first(false, 'two')).toBe('token');
    state.refused(REJECTED, 'token', true, 0, 0, 'two');
    state.refused(MISSING, 'cookie', true, 0, 0, '');
    expect(state.first(true, 'three')).toBe('token');
    expect(state.first(true, 'three')).toBe('token');
  });

  it('is the usual one where both were refused', () => {
    const state = new PathState();
    state.distrust('cookie', 'one');
    state.distrust('token', 'one');
    expect(state.first(true, 'one')).toBe('cookie');
    expect(state.first(false, 'one')).toBe('token');
  });
});

describe('a refused credential', () => {
  it('is followed by the other one, once, then the path is parked', () => {
    const state = new PathState();
    expect(state.refused(MISSING, 'cookie', true, 0, 0, 'one')).toEqual({
      action: 'again',
      credential: 'token'
    });
    expect(state.parked).toBeNull();
    expect(state.refused(REJECTED, 'token', true, 0, 0, 'one')).toEqual({ action: 'park' });
    expect(state.parked).toBe(REJECTED);
  });

  it('is followed by the cookie after the token', () => {
    const state = new PathState();
    expect(state.refused(REJECTED, 'token', true, 0, 0, 'one')).toEqual({
      action: 'again',
      credential: 'cookie'
    });
    expect(state.refused(MISSING, 'cookie', true, 0, 0, 'one')).toEqual({ action: 'park' });
  });

  it('parks at once without a token', () => {
    expect(new PathState().refused(MISSING, 'cookie', false, 0, 0, 'one')).toEqual({ action: 'park' });
  });
});

describe('advice', () => {
  it.each([
    ['stop', FORBIDDEN],
    ['redirect', closed(4421, 'other_server')]
  ])('%s parks', (_advice, reason) => {
    const state = new PathState();
    expect(state.refused(reason, 'token', true, 0, 0, 'one')).toEqual({ action: 'park' });
    expect(state.parked).toBe(reason);
  });

  it('retry waits longer each time, with full jitter, up to the longest', () => {
    const state = new PathState();
    const waits = [...Array(10).keys()].map(() => {
      const decision = state.refused(FAILED, 'token', true, 100, 0.5, 'one');
      return decision.action === 'wait' ? decision.notBefore - 100 : NaN;
    });
    expect(waits.slice(0, 4)).toEqual([0.5, 1, 2, 4]);
    expect(waits[9]).toBe(BACKOFF.longest / 2);
    for (let i = 0; i < 2000; i++) {
      state.refused(FAILED, 'token', true, 100, 0.5, 'one');
    }
    expect(state.notBefore).toBe(100 + BACKOFF.longest / 2);
  });

  it('retry_after waits at least what was said, and not all of them the same', () => {
    expect(new PathState().refused(DRAINING, 'token', true, 100, 0, 'one')).toEqual({
      action: 'wait',
      notBefore: 107
    });
    expect(new PathState().refused(DRAINING, 'token', true, 100, 0.5, 'one')).toEqual({
      action: 'wait',
      notBefore: 107.5
    });
  });
});

describe('memory', () => {
  it('is gone after health, but for the park', () => {
    const state = new PathState();
    expect(state.idle).toBe(true);
    state.refused(FAILED, 'token', true, 100, 0.5, 'one');
    state.refused(MISSING, 'cookie', true, 100, 0.5, 'one');
    expect(state.idle).toBe(false);
    state.healthy();
    expect([state.failures, state.notBefore, state.idle]).toEqual([0, 0, true]);
    expect(state.first(true, 'one')).toBe('cookie');
    state.refused(FORBIDDEN, 'token', true, 0, 0, 'one');
    state.healthy();
    expect(state.parked).toBe(FORBIDDEN);
    expect(state.idle).toBe(false);
  });

  it('is gone after release, park included', () => {
    const state = new PathState();
    state.refused(FORBIDDEN, 'token', true, 0, 0, 'one');
    state.released();
    expect(state.parked).toBeNull();
    expect(state.idle).toBe(true);
  });
});
