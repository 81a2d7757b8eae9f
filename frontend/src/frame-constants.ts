/**
 * Made by tools/frontend_constants.py from the Python tables. Do not edit.
 */

export const TUNNEL = 'v1.tunnel.websocket.jupyter.org';

/** Kinds of frames. */
export const KIND = {
  OPEN: 1,
  OPENED: 2,
  DATA: 3,
  END: 4,
  CLOSE: 5,
  HELLO: 16,
  ACK: 17,
  CREDIT: 18
} as const;

/** This kind and those above have no number. */
export const FIRST_UNNUMBERED = 16;

export const HEADER_SIZE = 10;
export const MAX_DATA = 262144;
export const MAX_TEXT = 16384;
export const MAX_STREAM = 2147483647;
export const MAX_REASON_SIZE = 123;
export const FIN = 1;
export const TEXT = 2;
