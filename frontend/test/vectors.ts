/** The vectors that Python runs too: tests/vectors/README.md describes them. */

import { readFileSync } from 'node:fs';

export function vectors<T>(file: string, group: string): (T & { name: string })[] {
  const place = new URL(`../../tests/vectors/${file}.json`, import.meta.url);
  const groups = JSON.parse(readFileSync(place, 'utf8')) as Record<string, (T & { name: string })[]>;
  const cases = groups[group];
  if (!cases?.length) {
    throw new Error(`${file}.json has no cases in a group ${group}`);
  }
  return cases;
}
