import { NotificationManager } from '@jupyterlab/apputils/lib/notification.js';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { NoticeBoard, type Action } from '../../src/ui/notices.js';
import type { Notice, Topic } from '../../src/ui/state.js';

function notice(topic: Topic, more: Partial<Notice> = {}): Notice {
  return { topic, count: 1, names: [], replaceable: false, closed: null, seconds: 0, long: false, ...more };
}

let manager: NotificationManager;
let board: NoticeBoard;
let put: Topic[];
let action: Action | null;

beforeEach(() => {
  manager = new NotificationManager();
  put = [];
  action = null;
  board = new NoticeBoard({
    manager,
    sentence: ({ topic, count, seconds }) => `${topic} ${count}, ${seconds} s`,
    action: () => action,
    onDismissed: topic => put.push(topic)
  });
});

afterEach(() => {
  document.body.replaceChildren();
});

const messages = (): string[] => manager.notifications.map(one => one.message);

/** What JupyterLab puts on the screen for a notification. */
function toast(): HTMLElement {
  const node = document.createElement('div');
  node.id = manager.notifications[0]!.id;
  node.innerHTML = '<div role="alert"></div>';
  document.body.append(node);
  return node;
}

it('offers what can be done from the moment that it can, also where it is hidden', () => {
  board.show([notice('waiting', { seconds: 3 })]);
  expect(manager.notifications[0]?.options.actions).toEqual([]);
  action = { label: 'Try again', once: false, run: () => undefined };
  board.show([notice('waiting', { seconds: 100 })]);
  expect(manager.notifications[0]?.options.actions).toHaveLength(1);
  expect(messages()).toEqual(['waiting 1, 100 s']);
});

it('shows one of a topic, and takes it away when it is over', () => {
  board.show([notice('signed_out'), notice('waiting', { seconds: 3 })]);
  board.show([notice('signed_out'), notice('waiting', { seconds: 3 })]);
  expect(messages()).toEqual(['waiting 1, 3 s', 'signed_out 1, 0 s']);
  expect(manager.notifications.map(one => one.type)).toEqual(['info', 'warning']);
  expect(manager.notifications.map(one => one.options.autoClose)).toEqual([false, false]);
  board.show([notice('signed_out')]);
  expect(messages()).toEqual(['signed_out 1, 0 s']);
  board.show([]);
  expect([messages(), put]).toEqual([[], []]);
});

it('tells when the user put one away, and leaves those of others alone', () => {
  const other = manager.notify('other', 'info', {});
  board.show([notice('gone'), notice('waiting')]);
  manager.dismiss(other);
  manager.dismiss(manager.notifications[1]!.id);
  expect(put).toEqual(['gone']);
  board.show([notice('gone'), notice('waiting')]);
  expect(messages()).toEqual(['gone 1, 0 s', 'waiting 1, 0 s']);
});

it('says what is new', () => {
  board.show([notice('gone')]);
  const { id } = manager.notifications[0]!;
  board.show([notice('gone', { count: 2 })]);
  expect(manager.notifications).toHaveLength(1);
  expect(manager.notifications[0]).toMatchObject({
    id,
    message: 'gone 2, 0 s',
    options: { autoClose: false }
  });
});

it('counts down on the screen without reading it out', () => {
  board.show([notice('waiting', { seconds: 3 })]);
  const node = toast();
  board.show([notice('waiting', { seconds: 2 })]);
  expect(messages()).toEqual(['waiting 1, 2 s']);
  expect(node.firstElementChild?.getAttribute('aria-live')).toBe('off');
});

it('does not bring back what the user hid, for a second less', () => {
  board.show([notice('waiting', { seconds: 3 })]);
  board.show([notice('waiting', { seconds: 2 })]);
  expect(messages()).toEqual(['waiting 1, 3 s']);
});

it.each([true, false])('offers what can be done; once: %s', once => {
  const run = vi.fn();
  action = { label: 'Do', run, once };
  board.show([notice('down')]);
  const [button] = manager.notifications[0]!.options.actions!;
  expect(button).toMatchObject({ label: 'Do', displayType: 'accent' });
  const event = new MouseEvent('click', { cancelable: true });
  button!.callback(event);
  expect(run).toHaveBeenCalledOnce();
  expect(event.defaultPrevented).toBe(!once); // JupyterLab takes the notification away unless it is prevented
});
