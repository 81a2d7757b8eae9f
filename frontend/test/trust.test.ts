import { describe, expect, it, test } from 'vitest';

import {
  addresses,
  isDeclared,
  pathBelow,
  STOCK_SOCKETS,
  tokenRoute,
  type Capabilities,
  type TokenRoute
} from '../src/trust';
import { vectors } from './vectors';

describe('tokenRoute', () => {
  interface Case {
    capabilities: Capabilities | null;
    browser: boolean;
    allow_url: boolean;
    route: TokenRoute | 'header';
  }
  const ours = vectors<Case>('clients', 'token_route').filter(one => one.browser);
  test.each(ours)('C2.9 $name', ({ capabilities, allow_url, route }) => {
    expect(tokenRoute(capabilities, allow_url)).toBe(route);
  });
});

describe('pathBelow', () => {
  test.each(vectors<{ base: string; url: string; inside: boolean }>('clients', 'within_base'))(
    'C2.9 $name',
    ({ base, url, inside }) => {
      expect(pathBelow(base, url) !== null).toBe(inside);
    }
  );

  it.each([
    ['https://host/user/ann/', 'wss://host/user/ann/api/kernels/1/channels?x=1', 'api/kernels/1/channels'],
    ['https://host/user/ann', 'wss://host/user/ann/x', 'x'],
    ['https://host/user/ann/', 'wss://host/user/ann', ''],
    ['http://host', 'ws://host/x/y', 'x/y']
  ])('%s, %s: %s', (base, address, path) => {
    expect(pathBelow(base, address)).toBe(path);
  });
});

describe('addresses', () => {
  interface Case {
    asked: string;
    capabilities: object | null;
    base_url: string;
    ws_url: string;
  }
  test.each(vectors<Case>('clients', 'addresses'))(
    'C4 $name',
    ({ asked, capabilities, base_url, ws_url }) => {
      expect(addresses(asked, capabilities)).toEqual({ baseUrl: base_url, wsUrl: ws_url });
    }
  );
});

describe('isDeclared', () => {
  it.each([
    ['api/kernels/7c5/channels', true],
    ['api/kernels//channels', false],
    ['api/kernels/a/b/channels', false],
    ['api/kernels/7c5/channels/', false],
    ['x/api/kernels/7c5/channels', false],
    ['terminals/websocket/1', true],
    ['terminals/websocket/', false],
    ['api/events/subscribe', true],
    ['apixeventsxsubscribe', false],
    ['proxy/8000/api/events/subscribe', false]
  ])('stock: %s %s', (path, declared) => {
    expect(isDeclared(path, STOCK_SOCKETS)).toBe(declared);
  });

  it('takes a group at the end for the rest of the path', () => {
    expect(
      isDeclared('api/collaboration/room/json:notebook:a/b.ipynb', ['api/collaboration/room/{id}'])
    ).toBe(true);
  });

  it('reads a template without groups to the letter', () => {
    expect(isDeclared('a.b', ['a.b'])).toBe(true);
    expect(isDeclared('axb', ['a.b'])).toBe(false);
    expect(isDeclared('', [''])).toBe(true);
  });
});
