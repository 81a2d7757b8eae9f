import { beforeEach, describe, expect, it, vi } from 'vitest';
import { ServerConnection } from '@jupyterlab/services';
import { Connections, parseClose, type Closed, type ConnectionEvent } from 'jupyter-token-ws';
import { recall, Switchboard } from '../src/bus';

const CLOSED = parseClose(4401, 'credentials_missing') as Closed;
const parked = (path: string): ConnectionEvent => ({ kind: 'parked', path, closed: CLOSED });
const open = (path: string): ConnectionEvent => ({ kind: 'open', path });

function heard(bus: Switchboard): ConnectionEvent[] {
  const list: ConnectionEvent[] = [];
  bus.subscribe(event => list.push(event));
  return list;
}

beforeEach(() => {
  localStorage.clear();
});

describe('events', () => {
  it('reach everybody who listens, while they do', () => {
    const bus = new Switchboard();
    const list: unknown[] = [];
    const listener = (event: ConnectionEvent): void => void list.push(event.path);
    const stops = [bus.subscribe(listener), bus.subscribe(listener)];
    bus.publish(open('a'));
    stops[0]?.();
    stops[0]?.();
    bus.publish(open('b'));
    stops[1]?.();
    bus.publish(open('c'));
    expect(list).toEqual(['a', 'a', 'b']);
  });

  it('of unsettled paths are told to who comes later', () => {
    const bus = new Switchboard();
    const waiting = { kind: 'waiting', path: 'w', closed: CLOSED, seconds: 30 } as const;
    const unexplained = { kind: 'unexplained', path: 'u', cause: 'server_down' } as const;
    for (const event of [parked('a'), parked('b'), parked('c'), unexplained, open('d')]) {
      bus.publish(event);
    }
    bus.publish(open('a'));
    bus.publish({ kind: 'closed', path: 'a' });
    bus.publish({ kind: 'closed', path: 'd' });
    bus.publish({ kind: 'released', path: 'b' });
    bus.publish({ kind: 'closed', path: 'c' });
    bus.publish({ kind: 'refused', path: 'u', closed: CLOSED });
    vi.useFakeTimers();
    bus.publish(waiting);
    vi.advanceTimersByTime(10_000);
    expect(heard(bus)).toEqual([parked('c'), unexplained, { ...waiting, seconds: 20 }]);
    vi.advanceTimersByTime(20_000);
    expect(heard(bus)).toEqual([parked('c'), unexplained]);
    vi.useRealTimers();
  });

  it('that output was cut is told to who comes later', () => {
    const bus = new Switchboard();
    const cut = { kind: 'refused', path: 'a', closed: parseClose(4507, 'backlog_full') as Closed } as const;
    expect(cut.closed).not.toBeNull();
    bus.publish(cut);
    bus.publish(open('a'));
    expect(heard(bus)).toEqual([cut, open('a')].reverse());
  });

  it('of paths that nobody waits for any more are not told to who comes later, nor of the oldest of many', () => {
    const bus = new Switchboard();
    bus.publish(parked('a'));
    bus.publish(parked('b'));
    bus.publish({ kind: 'abandoned', path: 'a' });
    expect(heard(bus)).toEqual([parked('b')]);
    for (let kernel = 0; kernel < 499; kernel++) {
      bus.publish(parked(`kernel-${kernel}`));
    }
    bus.publish(parked('b'));
    bus.publish(parked('c'));
    const told = heard(bus).map(event => event.path);
    expect([told.length, told[0], ...told.slice(-2)]).toEqual([500, 'kernel-1', 'b', 'c']);
  });

  it('of open sockets are told to who comes later, as many as there are', () => {
    const bus = new Switchboard();
    for (const path of ['a', 'a', 'b', 'c']) {
      bus.publish(open(path));
    }
    bus.publish({ kind: 'closed', path: 'b' });
    bus.publish(parked('a'));
    expect(heard(bus)).toEqual([open('a'), open('a'), open('c'), parked('a')]);
  });

  it('are told on where a listener fails', () => {
    const complaint = vi.spyOn(console, 'error').mockImplementation(() => undefined);
    const bus = new Switchboard();
    bus.publish(parked('a'));
    const broken = (): void => {
      throw new Error('broken');
    };
    bus.subscribe(broken);
    const list = heard(bus);
    bus.publish(parked('b'));
    expect(list).toEqual([parked('a'), parked('b')]);
    expect(complaint).toHaveBeenCalledTimes(2);
    vi.restoreAllMocks();
  });
});

describe('what was provided', () => {
  const settings = ServerConnection.makeSettings({
    baseUrl: 'http://host/ann/',
    wsUrl: 'ws://host/ann/',
    appendToken: true
  });

  it('is nothing at first', () => {
    const bus = new Switchboard();
    bus.setToken('nobody to tell');
    expect([bus.connections, bus.serverSettings, bus.allowTokenInUrl]).toEqual([null, null, true]);
  });

  it('takes another token for all who hold the settings', () => {
    const bus = new Switchboard();
    bus.provide(settings, null);
    bus.setToken('new');
    expect(settings.token).toBe('new');
  });

  it('may be forbidden to put tokens into addresses, at once and at the next start', () => {
    const connections = new Connections({ baseUrl: settings.baseUrl });
    const bus = new Switchboard();
    bus.provide(settings, connections);
    expect([bus.connections, bus.serverSettings, bus.allowTokenInUrl]).toEqual([connections, settings, true]);
    bus.allowTokenInUrl = false;
    expect([bus.allowTokenInUrl, connections.allowTokenInUrl]).toEqual([false, false]);
    expect([recall(settings.baseUrl), recall('http://host/bob/')]).toEqual([false, true]);
    bus.allowTokenInUrl = true;
    expect([connections.allowTokenInUrl, recall(settings.baseUrl), localStorage.length]).toEqual([
      true,
      true,
      0
    ]);
  });

  it('puts no token where stock would put none', () => {
    const connections = new Connections({ baseUrl: settings.baseUrl });
    const bus = new Switchboard();
    bus.provide({ ...settings, appendToken: false }, connections);
    expect([bus.allowTokenInUrl, connections.allowTokenInUrl]).toEqual([true, false]);
    bus.allowTokenInUrl = true;
    expect(connections.allowTokenInUrl).toBe(false);
  });

  it('holds for this page where the browser remembers nothing', () => {
    const shut = (): never => {
      throw new DOMException('shut', 'SecurityError');
    };
    vi.stubGlobal('localStorage', { getItem: shut, setItem: shut, removeItem: shut });
    const bus = new Switchboard();
    expect(bus.allowTokenInUrl).toBe(true);
    for (const allowed of [false, true]) {
      bus.allowTokenInUrl = allowed;
      expect(bus.allowTokenInUrl).toBe(allowed);
    }
    vi.unstubAllGlobals();
  });
});
