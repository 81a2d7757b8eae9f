import { Signal } from '@lumino/signaling';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { Documents, type DocumentWidget } from '../../src/ui/documents.js';
import type { Lost } from '../../src/ui/state.js';
import { EVENTS, kernel, terminal } from './events.js';

/** A session context as far as it is looked at. */
class Context {
  session: { id: string; kernel: { id: string; name: string } | null } | null;
  isDisposed = false;
  isTerminating = false;
  kernelDisplayStatus = 'idle';
  prevKernelName = '';
  kernelPreference: { name?: string } = {};
  readonly kernelChanged = new Signal<this, void>(this);
  readonly disposed = new Signal<this, void>(this);
  readonly sessionChanged = new Signal<this, { oldValue: unknown; newValue: unknown }>(this);
  readonly asked: unknown[] = [];
  fails = false;

  constructor(
    id: string | null,
    readonly name = 'a.ipynb',
    readonly path = 'dir/a.ipynb'
  ) {
    this.session = id === null ? null : { id: `session-${id}`, kernel: { id, name: 'python3' } };
  }

  changeKernel(model: { id?: string; name?: string }): Promise<void> {
    this.asked.push(model);
    if (this.fails) {
      return Promise.reject(new Error('no such kernel'));
    }
    this.session = { id: 'new', kernel: { id: model.id ?? 'new', name: 'python3' } };
    this.kernelChanged.emit();
    return Promise.resolve();
  }

  /** JupyterLab found that the session is not there any more. */
  lose(): void {
    const oldValue = this.session;
    this.prevKernelName = oldValue?.kernel?.name ?? '';
    this.session = null;
    this.sessionChanged.emit({ oldValue, newValue: null });
    this.kernelChanged.emit();
  }

  dispose(): void {
    this.isDisposed = true;
    this.disposed.emit();
  }
}

let widgets: DocumentWidget[];
let lost: [string, Lost][];
let settled: [string, boolean][];
let documents: Documents;
let refresh: () => Promise<void>;
let alive: () => Promise<boolean>;

beforeEach(() => {
  vi.useFakeTimers();
  widgets = [];
  lost = [];
  settled = [];
  refresh = () => Promise.resolve();
  alive = () => Promise.resolve(false);
  documents = new Documents({
    widgets: () => widgets,
    refresh: () => refresh(),
    alive: () => alive(),
    onLost: (path, one) => lost.push([path, one]),
    onSettled: (path, free) => settled.push([path, free])
  });
});

afterEach(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
});

/** A widget with a session context, as notebooks have it, or as other documents do. */
function show(context: Context, like: 'notebook' | 'document' = 'notebook'): Context {
  widgets.push(like === 'notebook' ? { sessionContext: context } : { context: { sessionContext: context } });
  return context;
}

const pass = (): Promise<unknown> => vi.advanceTimersByTimeAsync(2000);

it('finds the kernels of documents by their session contexts', () => {
  show(new Context('1'));
  show(new Context('2', '', 'dir/some.py'), 'document');
  widgets.push({}, { context: null, content: null }, { sessionContext: {} });
  widgets.push({ isDisposed: true, sessionContext: new Context('3') });
  expect(['1', '2', '3'].map(id => documents.nameOf(kernel(id)))).toEqual(['a.ipynb', 'some.py', null]);
});

it('says what lost its kernel, when JupyterLab had time to notice', async () => {
  const context = show(new Context('1'));
  documents.missing(kernel('1'));
  expect(lost).toEqual([]);
  context.lose();
  expect(documents.nameOf(kernel('1'))).toBe('a.ipynb');
  await pass();
  const gone: Lost = { topic: 'gone', name: 'a.ipynb', replaceable: true };
  expect(lost).toEqual([[kernel('1'), gone]]);
  documents.missing(kernel('1'));
  context.kernelChanged.emit();
  await pass();
  expect([lost.length, settled]).toEqual([1, []]);
});

it('also where JupyterLab did not notice', async () => {
  show(new Context('1'));
  show(new Context('1', 'console'));
  documents.missing(kernel('1'));
  documents.missing(kernel('1'));
  await pass();
  expect(lost).toEqual([[kernel('1'), { topic: 'gone', name: '', replaceable: true }]]);
});

it.each([
  ['shuts it down', (one: Context) => (one.isTerminating = true)],
  ['picks another', (one: Context) => (one.kernelDisplayStatus = 'starting')],
  ['deletes the session', () => documents.deletes('api/sessions/session-1')],
  ['deletes the kernel', () => documents.deletes('api/kernels/1')]
])('says nothing where the page itself %s', async (_, prepare) => {
  const context = show(new Context('1'));
  prepare(context);
  documents.missing(kernel('1'));
  context.lose();
  await pass();
  expect([lost, settled]).toEqual([[], [[kernel('1'), true]]]);
});

describe('kernels that JupyterLab misses first', () => {
  /** Documents are known from the first time that somebody asks for them. */
  const know = (...contexts: Context[]): void => {
    contexts.forEach(context => show(context));
    documents.nameOf(EVENTS);
    documents.nameOf(EVENTS);
  };

  it('are said to be gone', async () => {
    const [first, second] = [new Context('1'), new Context('1')];
    know(first, second);
    first.lose();
    second.lose();
    documents.missing(kernel('1'));
    expect(lost).toEqual([]);
    await pass();
    expect(lost).toEqual([[kernel('1'), { topic: 'gone', name: '', replaceable: true }]]);
    await documents.replace([kernel('1')]);
    expect([first.asked, second.asked]).toEqual([[{ name: 'python3' }], [{ id: 'new' }]]);
  });

  it('once, if their sockets hear it as well', async () => {
    const context = new Context('1');
    know(context);
    documents.missing(kernel('1'));
    context.lose();
    await pass();
    expect(lost).toHaveLength(1);
  });

  it.each([
    ['shut down here', (one: Context) => documents.deletes(`api/sessions/${one.session?.id}`)],
    ['being shut down', (one: Context) => (one.isTerminating = true)],
    ['still there', () => (alive = () => Promise.resolve(true))],
    ['not to be asked for', () => (alive = () => Promise.reject(new Error('offline')))],
    ['not there at all', (one: Context) => (one.session!.kernel = null)]
  ])('are not if they are %s', async (_, prepare) => {
    const context = new Context('1');
    know(context);
    prepare(context);
    context.lose();
    await pass();
    expect(lost).toEqual([]);
  });

  it('are not if there is another session, or there was none', async () => {
    const context = new Context('1');
    know(context);
    context.sessionChanged.emit({ oldValue: context.session, newValue: context.session });
    context.sessionChanged.emit({ oldValue: null, newValue: null });
    await pass();
    expect(lost).toEqual([]);
  });

  it('do not matter if their document was closed meanwhile', async () => {
    const context = new Context('1');
    know(context);
    context.lose();
    context.dispose();
    await pass();
    expect([lost, settled]).toEqual([[], [[kernel('1'), true]]]);
  });
});

describe('kernels that were not reached when JupyterLab gave them up', () => {
  const gone: Lost = { topic: 'gone', name: 'a.ipynb', replaceable: true };
  /** It drops the kernel before the session, without a word of it. */
  const forget = (context: Context): void => {
    context.session!.kernel = null;
  };

  it('are said to be gone', async () => {
    const [first, second] = [show(new Context('1')), show(new Context('2'))];
    [1, 1, 2].forEach(id => documents.troubled(kernel(id)));
    [first, second].forEach(forget);
    documents.troubled(kernel(1));
    documents.abandoned(kernel(1));
    documents.abandoned(kernel(1));
    await pass();
    expect(lost).toEqual([[kernel(1), gone]]);
    first.lose();
    first.dispose();
    expect(settled).toEqual([[kernel(1), true]]);
  });

  it('once, if JupyterLab says so itself', async () => {
    const context = show(new Context('1'));
    documents.troubled(kernel(1));
    context.lose();
    documents.abandoned(kernel(1));
    await pass();
    expect(lost).toEqual([[kernel(1), gone]]);
  });

  it.each([
    ['still there', () => (alive = () => Promise.resolve(true))],
    ['reached again', () => documents.settled(kernel(1))],
    ['shut down here', () => documents.deletes('api/kernels/1')],
    ['shut down here with their session', () => documents.deletes('api/sessions/session-1')],
    ['being shut down', (one: Context) => (one.isTerminating = true)]
  ])('are not if they are %s', async (_, prepare) => {
    const context = show(new Context('1'));
    documents.troubled(kernel(1));
    prepare(context);
    forget(context);
    documents.abandoned(kernel(1));
    await pass();
    expect([lost, settled]).toEqual([[], []]);
  });

  it('do not matter where nothing needs them', async () => {
    const [first, second] = [show(new Context('1')), show(new Context('2'))];
    [kernel(1), kernel(2), kernel(3), EVENTS, terminal(1)].forEach(path => documents.troubled(path));
    first.dispose();
    await second.changeKernel({ id: 'other' });
    [kernel(1), kernel(2), kernel(3), EVENTS, terminal(1)].forEach(path => documents.abandoned(path));
    await pass();
    expect(lost).toEqual([]);
  });
});

it('a kernel that something still holds is not free', async () => {
  show(new Context('1')).isTerminating = true;
  documents.missing(kernel('1'));
  await pass();
  expect(settled).toEqual([[kernel('1'), false]]);
});

it('says nothing of kernels that no document uses, nor of other paths', async () => {
  documents.missing(kernel('1'));
  documents.missing(EVENTS);
  await pass();
  expect([lost, settled]).toEqual([[], []]);
});

it('is over with a new kernel, or with the document', async () => {
  const [first, second] = [show(new Context('1')), show(new Context('2'))];
  documents.missing(kernel('1'));
  documents.missing(kernel('2'));
  await pass();
  expect(lost).toHaveLength(2);
  await first.changeKernel({ name: 'julia' });
  second.dispose();
  expect(settled.map(([path]) => path)).toEqual([kernel('1'), kernel('2')]);
  first.kernelChanged.emit();
  expect(settled).toHaveLength(2);
});

it('starts kernels like those that are gone, and shares what was shared', async () => {
  const order: string[] = [];
  refresh = () => {
    order.push('refresh');
    return Promise.reject(new Error('offline'));
  };
  const [first, second, other] = ['1', '1', '2'].map(id => show(new Context(id))) as [
    Context,
    Context,
    Context
  ];
  documents.missing(kernel('1'));
  documents.missing(kernel('2'));
  await pass();
  first.lose();
  other.session = null;
  other.kernelPreference = { name: 'julia' };
  expect(await documents.replace([kernel('1'), kernel('2')])).toEqual([kernel('1'), kernel('2')]);
  expect(order).toEqual(['refresh']);
  expect([first, second, other].map(one => one.asked)).toEqual([
    [{ name: 'python3' }],
    [{ id: 'new' }],
    [{ name: 'julia' }]
  ]);
  expect(documents.nameOf(kernel('1'))).toBe(null);
});

it('takes any kernel where nobody knows which it was', async () => {
  const [first, second] = [show(new Context('1')), show(new Context('1'))];
  documents.missing(kernel('1'));
  await pass();
  first.session = second.session = null;
  first.changeKernel = model => {
    first.asked.push(model);
    return Promise.resolve(); // without a kernel: another choice came before it
  };
  expect(await documents.replace([kernel('1')])).toEqual([kernel('1')]);
  expect([first.asked, second.asked]).toEqual([[{}], [{}]]);
});

it('a kernel that does not start is not replaced', async () => {
  const complaint = vi.spyOn(console, 'error').mockImplementation(() => undefined);
  show(new Context('1')).fails = true;
  documents.missing(kernel('1'));
  await pass();
  expect(await documents.replace([kernel('1'), kernel('gone')])).toEqual([kernel('gone')]);
  expect(complaint).toHaveBeenCalledOnce();
});

it('says what terminals have ended, if they are still to be seen', async () => {
  const session = { name: '1', isDisposed: false, connectionStatus: 'connecting' };
  widgets.push({ content: { session } }, { content: { session: { name: 1 } } });
  widgets.push({ isDisposed: true, content: { session: { ...session, name: '2' } } });
  documents.missing(terminal('1'));
  documents.missing(terminal('1'));
  documents.missing(terminal('2'));
  await pass();
  expect(lost).toEqual([[terminal('1'), { topic: 'ended', name: '1', replaceable: false }]]);
  expect(settled).toEqual([[terminal('2'), true]]);
  documents.missing(terminal('1'));
  session.isDisposed = true;
  await pass();
  expect(lost).toHaveLength(1);
  expect(settled[1]).toEqual([terminal('1'), true]);
});

it('has those connect again that gave up', async () => {
  const complaint = vi.spyOn(console, 'error').mockImplementation(() => undefined);
  const reconnect = vi.fn(() => Promise.resolve());
  const failing = vi.fn(() => Promise.reject(new Error('offline')));
  const gaveUp = { connectionStatus: 'disconnected', reconnect };
  const context = show(new Context('1'));
  Object.assign(context.session!.kernel!, gaveUp);
  Object.assign(show(new Context('2')).session!.kernel!, { ...gaveUp, connectionStatus: 'connected' });
  show(new Context(null));
  const session = { name: '1', isDisposed: false };
  widgets.push({ content: { session: { ...session, ...gaveUp } } });
  widgets.push({ content: { session: { ...session, connectionStatus: 'disconnected' } } });
  widgets.push({ content: { session: { ...session, ...gaveUp, reconnect: failing } } });
  documents.reconnect();
  await pass();
  expect([reconnect.mock.calls.length, failing.mock.calls.length]).toEqual([2, 1]);
  expect(complaint).toHaveBeenCalledOnce();
});
