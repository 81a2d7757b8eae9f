import { NotificationManager } from '@jupyterlab/apputils/lib/notification.js';
import { nullTranslator } from '@jupyterlab/translation';
import type { Closed } from 'jupyter-token-ws';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { Controller } from '../../src/ui/controller.js';
import type { Picture } from '../../src/ui/details.js';
import type { Input } from '../../src/ui/state.js';
import { abandoned, closed, EVENTS, kernel, open, parked, released, unexplained, waiting } from './events.js';

let manager: NotificationManager;
let pictures: Picture[];
let report: (input: Input) => void;
let controller: Controller;
let refused: Map<string, Closed>;
let watched: boolean;
let token: string | null;
let yes: boolean;

const connections = { release: vi.fn(), parked: () => refused };
const documents = {
  nameOf: vi.fn(() => null),
  missing: vi.fn(),
  troubled: vi.fn(),
  settled: vi.fn(),
  abandoned: vi.fn(),
  replace: vi.fn((paths: string[]) => Promise.resolve(paths)),
  reconnect: vi.fn(),
  refresh: vi.fn()
};
const server = {
  base: 'https://host/',
  foreign: false,
  knows: vi.fn(),
  meet: vi.fn(),
  tryToken: vi.fn(),
  loginAddress: vi.fn(),
  roundTrip: vi.fn(),
  otherServer: vi.fn()
};
const ask = { token: vi.fn(), confirm: vi.fn(), tell: vi.fn() };

/** What was added to the page, to be taken away again: every test has a controller of its own. */
const listeners: [EventTarget, string, EventListener][] = [];

function remember(target: EventTarget): void {
  const add = target.addEventListener.bind(target);
  vi.spyOn(target, 'addEventListener').mockImplementation((kind, listener) => {
    listeners.push([target, kind, listener as EventListener]);
    add(kind, listener);
  });
}

beforeEach(() => {
  vi.useFakeTimers();
  vi.resetAllMocks();
  look(true);
  remember(document);
  remember(window);
  manager = new NotificationManager();
  pictures = [];
  refused = new Map();
  watched = true;
  token = null;
  yes = true;
  server.foreign = false;
  connections.release.mockImplementation(path => {
    refused.delete(path);
    controller.onEvent(released(path));
  });
  documents.replace.mockImplementation(paths => Promise.resolve(paths));
  server.knows.mockResolvedValue(false);
  server.loginAddress.mockResolvedValue('https://host/in');
  server.roundTrip.mockResolvedValue(0.012);
  ask.token.mockImplementation(() => Promise.resolve(token));
  ask.confirm.mockImplementation(() => Promise.resolve(yes));
  vi.spyOn(window, 'open').mockImplementation(() => ({ location: {}, close: vi.fn() }) as never);
  controller = new Controller({
    connections: connections as never,
    server: server as never,
    documents: given => {
      report = given;
      return documents as never;
    },
    manager,
    trans: nullTranslator.load('jupyter_token_ws'),
    ask,
    show: picture => pictures.push(picture),
    watched: () => watched
  });
});

afterEach(() => {
  for (const [target, kind, listener] of listeners.splice(0)) {
    target.removeEventListener(kind, listener);
  }
  vi.clearAllTimers();
  vi.useRealTimers();
  vi.restoreAllMocks();
});

function look(visible: boolean): void {
  vi.spyOn(document, 'visibilityState', 'get').mockReturnValue(visible ? 'visible' : 'hidden');
  document.dispatchEvent(new Event('visibilitychange'));
}

/** The connections park a path. */
function park(path: string, slug: Parameters<typeof closed>[0]): void {
  refused.set(path, closed(slug));
  controller.onEvent(parked(path, slug));
}

const pass = (seconds: number): Promise<unknown> => vi.advanceTimersByTimeAsync(seconds * 1000);
const messages = (): string[] => manager.notifications.map(one => one.message);
const picture = (): Picture => pictures[pictures.length - 1]!;
const word = (): string => picture().view.word;

/** Press the button of the only notification. */
async function press(label: string): Promise<void> {
  const [notification, ...others] = manager.notifications;
  expect(others).toEqual([]);
  const [action] = notification!.options.actions!;
  expect(action?.label).toBe(label);
  const event = new MouseEvent('click', { cancelable: true });
  action!.callback(event);
  if (!event.defaultPrevented) {
    manager.dismiss(notification!.id); // as JupyterLab does
  }
  await pass(0);
}

describe('signed out', () => {
  it('says so once, asks, and releases what was refused for that when somebody signs in', async () => {
    [kernel(1), kernel(2), EVENTS].forEach(path => park(path, 'token_rejected'));
    park(kernel(3), 'gone');
    await pass(0);
    expect(messages()).toHaveLength(1);
    expect([word(), server.knows.mock.calls.length]).toEqual(['signed_out', 1]);
    server.knows.mockResolvedValue(true);
    await press('Sign in again');
    expect(window.open).toHaveBeenCalledOnce();
    expect(messages()).toHaveLength(1);
    await pass(2);
    expect(connections.release.mock.calls.flat()).toEqual([kernel(1), kernel(2), EVENTS]);
    expect(documents.reconnect).toHaveBeenCalledOnce();
    expect(documents.refresh).not.toHaveBeenCalled();
    expect(messages()).toEqual([]);
    expect(word()).toBe('idle');
    await pass(5);
    expect(documents.refresh).toHaveBeenCalledOnce();
  });

  it('asks whether to go on as somebody else, once until the user signs in again', async () => {
    server.knows.mockImplementation((agreed: (user: string) => Promise<boolean>) => agreed('bob'));
    yes = false;
    park(EVENTS, 'token_expired');
    await pass(60);
    expect(ask.confirm).toHaveBeenCalledOnce();
    const [, body, button] = ask.confirm.mock.lastCall!;
    expect([body, button]).toEqual([
      expect.stringContaining('You are now signed in as bob.'),
      'Go on as bob'
    ]);
    expect([word(), connections.release.mock.calls]).toEqual(['signed_out', []]);
    yes = true;
    await press('Sign in again');
    await pass(2);
    expect(ask.confirm).toHaveBeenCalledTimes(2);
    expect(connections.release.mock.calls.flat()).toEqual([EVENTS]);
  });

  it('learns whose page it is while it is signed in', () => {
    park(EVENTS, 'forbidden');
    expect(server.meet).not.toHaveBeenCalled();
    controller.onEvent(open(EVENTS));
    expect(server.meet).toHaveBeenCalledOnce();
  });

  it('says where, if the browser opens no window', async () => {
    vi.spyOn(window, 'open').mockReturnValue(null);
    park(EVENTS, 'token_expired');
    await press('Sign in again');
    expect(ask.tell.mock.lastCall?.[2]).toBe('https://host/in');
    server.knows.mockResolvedValue(true);
    window.dispatchEvent(new Event('focus'));
    await pass(0);
    expect(connections.release.mock.calls.flat()).toEqual([EVENTS]);
  });

  it('put away stays away, and is still the state', () => {
    park(EVENTS, 'token_expired');
    manager.dismiss();
    park(kernel(1), 'token_expired');
    expect([messages(), word()]).toEqual([[], 'signed_out']);
    expect(controller.remedy?.label).toBe('Sign in again');
  });

  it('a page from elsewhere asks for a token', async () => {
    server.foreign = true;
    park(EVENTS, 'token_expired');
    await pass(0);
    await press('Sign in again');
    expect([ask.token.mock.calls.length, server.tryToken.mock.calls.length]).toEqual([1, 0]);
    token = 'wrong';
    server.tryToken.mockResolvedValue(false);
    await press('Sign in again');
    expect(ask.tell).toHaveBeenCalledOnce();
    token = 'good';
    server.tryToken.mockResolvedValue(true);
    server.knows.mockResolvedValue(true);
    await press('Sign in again');
    expect(server.tryToken).toHaveBeenLastCalledWith('good');
    expect(connections.release.mock.calls.flat()).toEqual([EVENTS]);
    expect(window.open).not.toHaveBeenCalled();
  });
});

describe('kernels that are gone', () => {
  it('are looked after by who knows the documents, and replaced', async () => {
    controller.onEvent(parked(kernel(1), 'gone'));
    controller.onEvent(parked(kernel(2), 'not_found'));
    controller.onEvent(parked(EVENTS, 'forbidden'));
    expect(documents.missing.mock.calls.flat()).toEqual([kernel(1), kernel(2)]);
    controller.onEvent(released(EVENTS));
    report({ kind: 'lost', path: kernel(1), lost: { topic: 'gone', name: 'a', replaceable: true } });
    report({ kind: 'lost', path: kernel(2), lost: { topic: 'gone', name: 'b', replaceable: true } });
    report({ kind: 'lost', path: 't', lost: { topic: 'ended', name: '1', replaceable: false } });
    expect(messages()).toHaveLength(2);
    manager.dismiss(manager.notifications[0]!.id);
    await press('Start new kernels');
    expect(documents.replace.mock.calls).toEqual([[[kernel(1), kernel(2)]]]);
    expect(connections.release.mock.calls.flat()).toEqual([kernel(1), kernel(2)]);
    expect([messages(), word()]).toEqual([[], 'idle']);
  });
});

it('those who know the documents hear which kernels cannot be reached', () => {
  controller.onEvent(parked(kernel(1), 'token_expired'));
  controller.onEvent(parked(kernel(2), 'gone'));
  controller.onEvent(waiting(kernel(3), 'unavailable', 9));
  controller.onEvent(unexplained(kernel(4), 'websockets_blocked'));
  controller.onEvent(released(kernel(4)));
  expect(documents.troubled.mock.calls.flat()).toEqual([kernel(1), kernel(3), kernel(4)]);
  controller.onEvent(open(kernel(3)));
  expect(documents.settled.mock.calls.flat()).toEqual([kernel(3)]);
  controller.onEvent(abandoned(kernel(4)));
  expect(documents.abandoned.mock.calls.flat()).toEqual([kernel(4)]);
});

describe('trying again', () => {
  it('tries what failed, not what shall wait nor what is gone', async () => {
    park(kernel(1), 'forbidden');
    park(kernel(2), 'gone');
    controller.onEvent(unexplained(kernel(3), 'unknown'));
    controller.onEvent(waiting(kernel(4), 'unavailable', 2));
    controller.onEvent(open(kernel(5)));
    await pass(20);
    await press('Try again');
    expect(connections.release.mock.calls.flat()).toEqual([kernel(1), kernel(3)]);
    expect(documents.reconnect).toHaveBeenCalledOnce();
    expect(word()).toBe('connected');
  });

  it.each([
    ['websockets_blocked', 'blocked'],
    ['not_attempted', 'not_attempted'],
    ['server_down', 'down']
  ] as const)('is offered for %s', async (cause, topic) => {
    server.roundTrip.mockResolvedValue(null);
    controller.onEvent(unexplained(EVENTS, cause));
    await pass(10);
    expect(word()).toBe(topic);
    await press('Try again');
    expect(messages()).toEqual([]);
    await pass(10);
    expect(messages()).toHaveLength(topic === 'not_attempted' ? 0 : 1); // that one is told each time
  });
});

it('a long wait can be ended', async () => {
  controller.onEvent(waiting(EVENTS, 'unavailable', 60));
  expect(controller.remedy).toBe(null);
  controller.onEvent(waiting(kernel(1), 'unavailable', 600));
  await press('Try again');
  expect(connections.release.mock.calls.flat()).toEqual([kernel(1)]);
  expect(controller.remedy).toBe(null);
});

describe('another server', () => {
  it('is opened if the user knows it', async () => {
    park(EVENTS, 'other_server');
    server.otherServer.mockResolvedValue('https://other/');
    yes = false;
    await press('Go to your server');
    expect(window.open).not.toHaveBeenCalled();
    yes = true;
    await press('Go to your server');
    expect(ask.confirm.mock.lastCall?.[1]).toContain('https://other/');
    expect(window.open).toHaveBeenCalledWith('https://other/', '_blank', 'noopener');
  });

  it('is not where nobody says so', async () => {
    park(EVENTS, 'other_server');
    server.otherServer.mockResolvedValue(null);
    await press('Go to your server');
    expect(ask.tell).toHaveBeenCalledOnce();
    expect(ask.confirm).not.toHaveBeenCalled();
  });
});

it('counts down each second, and needs nothing of the user', async () => {
  controller.onEvent(waiting(EVENTS, 'too_many_connections', 3));
  expect(messages()).toEqual(['Too many connections. Trying again in 3 seconds.']);
  expect(manager.notifications[0]?.options.actions).toEqual([]);
  document.body.innerHTML = `<div id="${manager.notifications[0]!.id}"></div>`;
  await pass(1.01);
  expect(messages()).toEqual(['Too many connections. Trying again in 2 seconds.']);
  expect(controller.remedy).toBe(null);
  controller.onEvent(open(EVENTS));
  expect([messages(), controller.remedy]).toEqual([[], null]);
  document.body.replaceChildren();
});

it('shows no notices where the user wants none, but the state', () => {
  park(EVENTS, 'forbidden');
  controller.notices = false;
  expect([messages(), word()]).toEqual([[], 'stopped']);
  controller.notices = true;
  expect(messages()).toHaveLength(1);
});

describe('the round trip', () => {
  it('is measured now and then, while somebody looks', async () => {
    await controller.measure();
    expect(picture().roundTrip).toBe('12 ms');
    const drawn = pictures.length;
    await pass(30);
    expect([server.roundTrip.mock.calls.length, pictures.length]).toEqual([2, drawn]);
    look(false);
    await pass(300);
    expect(server.roundTrip).toHaveBeenCalledTimes(2);
    look(true);
    await pass(0);
    expect(server.roundTrip).toHaveBeenCalledTimes(3);
    watched = false;
    await pass(300);
    expect(server.roundTrip).toHaveBeenCalledTimes(3);
  });

  it('is measured once at a time', async () => {
    let answer: (seconds: number | null) => void = () => undefined;
    server.roundTrip.mockImplementation(() => new Promise(resolve => (answer = resolve)));
    const [first, second] = [controller.measure(), controller.measure()];
    await second;
    expect(server.roundTrip).toHaveBeenCalledOnce();
    answer(null);
    await first;
    expect(picture().roundTrip).toBe('');
  });

  it('finds out that the server is back, also if nobody watches', async () => {
    watched = false;
    server.roundTrip.mockResolvedValue(null);
    controller.onEvent(unexplained(EVENTS, 'server_down'));
    await pass(60);
    expect(word()).toBe('down');
    expect(documents.reconnect).not.toHaveBeenCalled();
    const before = server.roundTrip.mock.calls.length;
    expect(before).toBeGreaterThan(5);
    server.roundTrip.mockResolvedValue(0.5);
    await pass(5);
    expect([word(), messages()]).toEqual(['idle', []]);
    expect(documents.reconnect).toHaveBeenCalledOnce();
    await pass(300);
    expect(server.roundTrip.mock.calls.length).toBe(before + 1);
  });
});
