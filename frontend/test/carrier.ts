/** A carrier whose every event a test decides: for orders that no real network can be made to show. */

import type { Carrier } from '../src/carrier';

export class FakeCarrier implements Carrier {
  binaryType: BinaryType = 'blob';
  bufferedAmount = 0;
  extensions = '';
  protocol = '';
  readyState = 0;
  onopen: Carrier['onopen'] = null;
  onmessage: Carrier['onmessage'] = null;
  onerror: Carrier['onerror'] = null;
  onclose: Carrier['onclose'] = null;
  readonly sent: unknown[] = [];
  readonly closes: unknown[][] = [];

  constructor(
    readonly address: string,
    readonly protocols: readonly string[]
  ) {}

  send(data: unknown): void {
    this.sent.push(data);
  }

  close(...how: unknown[]): void {
    this.closes.push(how);
    this.readyState = 2;
  }

  open(protocol = ''): void {
    this.readyState = 1;
    this.protocol = protocol;
    this.onopen?.(new Event('open'));
  }

  message(data: unknown, origin = 'ws://host'): void {
    this.onmessage?.(new MessageEvent('message', { data, origin }));
  }

  /** As a browser ends a socket: `error` first where it failed. */
  end(code: number, reason = '', wasClean = true): void {
    this.readyState = 3;
    if (!wasClean) {
      this.onerror?.(new Event('error'));
    }
    this.onclose?.(new CloseEvent('close', { code, reason, wasClean }));
  }
}
