import { describe, expect, it, test } from 'vitest';

import { REASONS, type Slug } from '../src/constants';
import { parseClose } from '../src/reasons';
import { vectors } from './vectors';

describe('parseClose', () => {
  interface Case {
    code: number;
    reason: string;
    slug: Slug | null;
    retry_after: number | null;
  }
  test.each(vectors<Case>('reasons', 'parse_close'))('C3.1 $name', ({ code, reason, slug, retry_after }) => {
    const closed = parseClose(code, reason);
    if (slug === null) {
      expect(closed).toBeNull();
    } else {
      expect(closed).toEqual({
        slug,
        code,
        advice: REASONS[slug].advice,
        text: REASONS[slug].text,
        retryAfter: retry_after
      });
    }
  });

  it('shows our own words, never the peer’s', () => {
    const closed = parseClose(4403, 'forbidden: <img src=x onerror=alert(1)>');
    expect(closed?.text).toBe(REASONS.forbidden.text);
  });

  it.each(['constructor', 'toString', '__proto__'])('does not take %s for a slug', slug => {
    expect(parseClose(4403, slug)).toBeNull();
  });
});

describe('the table', () => {
  interface Row {
    code: number;
    advice: string;
    text: string;
  }
  const rows = vectors<Row>('reasons', 'table');

  test.each(rows)('$name', ({ name, code, advice, text }) => {
    expect(REASONS[name as Slug]).toEqual({ code, advice, text });
  });

  it('has nothing else', () => {
    expect(Object.keys(REASONS).sort()).toEqual(rows.map(row => row.name).sort());
  });
});
