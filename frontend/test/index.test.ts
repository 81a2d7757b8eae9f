import { expect, it } from 'vitest';

import * as all from '../src/index';

it('the package offers this, and nothing by accident', () => {
  expect(Object.keys(all).sort()).toEqual([
    'Connections',
    'KERNEL',
    'MARKER',
    'REASONS',
    'REASON_MARKER',
    'addresses',
    'encodeToken',
    'offerSubprotocols',
    'parseClose',
    'pathBelow',
    'readCapabilities',
    'tokenRoute',
    'tokenWebSocket'
  ]);
});
