import { describe, expect, it, test } from 'vitest';

import { MARKER, REASON_MARKER } from '../src/constants';
import {
  encodeToken,
  offerSubprotocols,
  visibleProtocol,
  withoutToken,
  withToken
} from '../src/subprotocols';
import { vectors } from './vectors';

describe('encodeToken', () => {
  test.each(vectors<{ token: string; encoded: string | null }>('encoding', 'encode'))(
    'C1.4 $name',
    ({ token, encoded }) => {
      if (encoded === null) {
        expect(() => encodeToken(token)).toThrow(URIError);
      } else {
        expect(encodeToken(token)).toBe(encoded);
      }
    }
  );
});

describe('offerSubprotocols', () => {
  interface Case {
    existing: string[];
    token: string | null;
    reasons: boolean;
    offered: string[];
  }
  test.each(vectors<Case>('subprotocols', 'offer'))('C1.4 $name', ({ existing, token, reasons, offered }) => {
    expect(offerSubprotocols(existing, token, reasons)).toEqual(offered);
  });

  it('offers the reason marker unless told not to', () => {
    expect(offerSubprotocols([], null)).toEqual([REASON_MARKER]);
  });
});

describe('visibleProtocol', () => {
  it.each([
    ['', [], ''],
    ['mqtt', ['mqtt'], 'mqtt'],
    [MARKER, ['mqtt'], ''],
    [REASON_MARKER, [], ''],
    [MARKER, [MARKER], MARKER],
    [REASON_MARKER, [REASON_MARKER], REASON_MARKER]
  ])('%j, asked for %j: %j', (answered, existing, seen) => {
    expect(visibleProtocol(answered, existing)).toBe(seen);
  });
});

describe('withoutToken', () => {
  it.each([
    ['the only parameter', 'ws://h/a?token=abc', 'abc', 'ws://h/a'],
    ['first', 'ws://h/a?token=abc&session_id=1', 'abc', 'ws://h/a?session_id=1'],
    ['last', 'ws://h/a?session_id=1&token=abc', 'abc', 'ws://h/a?session_id=1'],
    ['twice', 'ws://h/a?token=abc&x&token=abc', 'abc', 'ws://h/a?x'],
    ['somebody else’s token', 'ws://h/a?token=xyz', 'abc', 'ws://h/a?token=xyz'],
    ['another parameter of that value', 'ws://h/a?key=abc', 'abc', 'ws://h/a?key=abc'],
    ['escaped value', 'ws://h/a?token=a%2Bb%20c', 'a+b c', 'ws://h/a'],
    ['plus for a blank', 'ws://h/a?token=a+c', 'a c', 'ws://h/a'],
    ['plus left as it is', 'ws://h/a?token=a+c', 'a+c', 'ws://h/a'],
    ['escaped name', 'ws://h/a?%74oken=abc', 'abc', 'ws://h/a'],
    ['a question mark in the query', 'ws://h/a?x=?token=abc&token=abc', 'abc', 'ws://h/a?x=?token=abc'],
    ['no value', 'ws://h/a?token', 'abc', 'ws://h/a?token'],
    ['bad escapes elsewhere', 'ws://h/a?x=%zz&token=abc', 'abc', 'ws://h/a?x=%zz'],
    ['no query', 'ws://h/a', 'abc', 'ws://h/a'],
    ['an empty query stays', 'ws://h/a?', 'abc', 'ws://h/a?'],
    ['no token of ours', 'ws://h/a?token=', '', 'ws://h/a?token=']
  ])('%s', (_what, address, token, clean) => {
    expect(withoutToken(address, token)).toBe(clean);
  });
});

describe('withToken', () => {
  it('begins or goes on with the query, and comes off again', () => {
    expect(withToken('ws://h/a', 'a+b&c')).toBe('ws://h/a?token=a%2Bb%26c');
    expect(withToken('ws://h/a?x=1', 'abc')).toBe('ws://h/a?x=1&token=abc');
    expect(withoutToken(withToken('ws://h/a?x=1', 'a+b&c'), 'a+b&c')).toBe('ws://h/a?x=1');
  });
});
