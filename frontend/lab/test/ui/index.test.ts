import type { JupyterFrontEnd } from '@jupyterlab/application';
import { Notification } from '@jupyterlab/apputils/lib/notification.js';
import { ServerConnection } from '@jupyterlab/services';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';
import { CommandRegistry } from '@lumino/commands';
import type { Token } from '@lumino/coreutils';
import { Signal } from '@lumino/signaling';
import type { Widget } from '@lumino/widgets';
import { Connections } from 'jupyter-token-ws';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { Switchboard } from '../../src/bus.js';
import { activate } from '../../src/ui/index.js';
import { EVENTS, kernel, open, parked } from './events.js';

const { palette, statusBar, shown } = vi.hoisted(() => ({
  palette: { name: 'palette' },
  statusBar: { name: 'status bar', missing: false },
  shown: [] as FakeDialog[]
}));

interface Button {
  readonly label: string;
  readonly accept: boolean;
}

interface DialogOptions {
  readonly title: string;
  readonly body: Widget | string;
  readonly buttons: Button[];
}

/** A dialog that somebody answers by and by. */
interface FakeDialog {
  readonly options: DialogOptions;
  readonly node: HTMLElement;
  answer(label: string): void;
}

// The module itself brings half of JupyterLab, and pictures that are no code.
vi.mock('@jupyterlab/apputils', async () => {
  class Dialog implements FakeDialog {
    static createButton = (given: Partial<Button>): Button => ({ label: '', accept: true, ...given });
    static okButton = Dialog.createButton;
    static cancelButton = (): Button => ({ label: 'Cancel', accept: false });
    readonly node = document.createElement('dialog');
    answer: (label: string) => void = () => undefined;

    constructor(readonly options: DialogOptions) {}

    launch(): Promise<{ button: Button; value: string }> {
      shown.push(this);
      return new Promise(resolve => {
        this.answer = label => {
          const button = this.options.buttons.find(one => one.label === label) ?? Dialog.cancelButton();
          resolve({ button, value: label });
        };
      });
    }
  }
  return {
    ...(await vi.importActual<object>('@jupyterlab/apputils/lib/notification.js')),
    ICommandPalette: palette,
    Dialog,
    showDialog: (options: DialogOptions) => new Dialog(options).launch(),
    InputDialog: { getPassword: (options: DialogOptions) => new Dialog({ ...options, buttons: [] }).launch() }
  };
});

vi.mock('@jupyterlab/ui-components', () => ({
  LabIcon: class {
    constructor(readonly options: { name: string }) {}
    element({ container }: { container: HTMLElement }): void {
      container.dataset.icon = this.options.name;
    }
  }
}));

vi.mock('@jupyterlab/statusbar', () => ({
  get IStatusBar(): unknown {
    if (statusBar.missing) {
      throw new Error('not shared here');
    }
    return statusBar;
  }
}));

const BASE = 'https://host/ann/';

/** What the server says to plain requests. */
let answer: { body: string; status: number };

interface Frontend {
  readonly app: JupyterFrontEnd;
  readonly bus: Switchboard;
  readonly connections: Connections;
  readonly services: Map<unknown, unknown>;
  /** The settings that the user made; call `changed.emit()` after changing them. */
  readonly settings: { composite: Record<string, unknown>; changed: Signal<object, void> };
  readonly items: Widget[];
  readonly added: object[];
  readonly widgets: Record<string, unknown[]>;
  readonly fetched: Request[];
}

function frontend(): Frontend {
  const bus = new Switchboard();
  const fetched: Request[] = [];
  const fetch = (input: RequestInfo | URL, init?: RequestInit): Promise<Response> => {
    fetched.push(new Request(input, init));
    return Promise.resolve(new Response(answer.body, { status: answer.status }));
  };
  const serverSettings = { ...ServerConnection.makeSettings({ baseUrl: BASE }), fetch, token: 'old' };
  const connections = new Connections({ baseUrl: BASE, cookies: true, fetch, onEvent: bus.publish });
  bus.provide(serverSettings as never, connections);
  const owner = {};
  const settings = { composite: {}, changed: new Signal<object, void>(owner) };
  const items: Widget[] = [];
  const added: object[] = [];
  const services = new Map<unknown, unknown>([
    [ITranslator, nullTranslator],
    [ISettingRegistry, { load: () => Promise.resolve(settings) }],
    [palette, { addItem: (item: object) => added.push(item) }],
    [statusBar, { registerStatusItem: (_: string, { item }: { item: Widget }) => items.push(item) }]
  ]);
  const widgets: Record<string, unknown[]> = { main: [] };
  const app = {
    commands: new CommandRegistry(),
    resolveOptionalService: (token: Token<unknown>) => Promise.resolve(services.get(token) ?? null),
    serviceManager: {
      sessions: { refreshRunning: () => Promise.resolve() },
      kernels: { refreshRunning: () => Promise.resolve(), running: () => [{ id: 'd' }].values() }
    },
    shell: {
      widgets: (area: string) => {
        if (!widgets[area]) {
          throw new Error(`Invalid area: ${area}`);
        }
        return widgets[area];
      }
    }
  };
  return { app: app as never, bus, connections, services, settings, items, added, widgets, fetched };
}

beforeEach(() => {
  vi.useFakeTimers();
  shown.length = 0;
  answer = { body: '{}', status: 403 };
  statusBar.missing = false;
  localStorage.clear();
  Notification.dismiss();
});

afterEach(() => {
  vi.clearAllTimers();
  vi.useRealTimers();
  vi.restoreAllMocks();
});

const pass = (seconds: number): Promise<unknown> => vi.advanceTimersByTimeAsync(seconds * 1000);
const messages = (): string[] => Notification.manager.notifications.map(one => one.message);
const DETAILS = 'jupyter-token-ws:details';

it('is not there where nothing is ever told', async () => {
  const { app, items } = frontend();
  await activate(app, new Switchboard());
  expect([app.commands.hasCommand(DETAILS), items]).toEqual([false, []]);
});

it('shows what happened before it was there, and what happens', async () => {
  const { app, bus, items } = frontend();
  answer.status = 200;
  bus.publish(open(EVENTS));
  await activate(app, bus);
  const button = items[0]!.node.querySelector('button')!;
  const icon = items[0]!.node.querySelector<HTMLElement>('.jp-TokenWs-icon')!;
  expect([button.dataset.state, icon.dataset.icon]).toEqual(['connected', 'jupyter_token_ws:connected']);
  bus.publish(parked(EVENTS, 'forbidden'));
  expect([button.dataset.state, icon.dataset.icon]).toEqual(['stopped', 'jupyter_token_ws:trouble']);
  expect(messages()).toEqual(['The server refused a connection: you may not use this.']);
  await pass(6);
  expect(button.getAttribute('aria-label')).toMatch(/^Connection: Refused, \d+ ms$/);
});

it('opens the details by a click, once, with what can be done', async () => {
  const { app, bus, connections, items, added, fetched } = frontend();
  await activate(app, bus);
  expect(added).toEqual([{ command: DETAILS, category: 'Help' }]);
  bus.publish(parked(EVENTS, 'forbidden'));
  const button = items[0]!.node.querySelector('button')!;
  button.click();
  button.click();
  await pass(0);
  expect(shown).toHaveLength(1);
  const { options, node } = shown[0]!;
  expect(options.buttons.map(one => one.label)).toEqual(['Try again', 'Close']);
  expect(node.getAttribute('aria-label')).toBe(options.title);
  expect(fetched.map(one => one.url)).toEqual([`${BASE}api/token-ws/capabilities`]);
  const rows = (): (string | undefined)[] =>
    [...(options.body as Widget).node.querySelectorAll<HTMLElement>('tbody tr')].map(
      row => row.dataset.state
    );
  expect(rows()).toEqual(['parked']);
  bus.publish(open(EVENTS));
  expect(rows()).toEqual(['open']);
  const release = vi.spyOn(connections, 'release');
  bus.publish(parked(EVENTS, 'forbidden'));
  shown[0]!.answer('Try again');
  await pass(0);
  expect(release.mock.calls).toEqual([[EVENTS]]);
  const before = rows();
  bus.publish(open(EVENTS));
  expect(rows()).toEqual(before);
  button.click();
  await pass(0);
  expect(shown[1]?.options.buttons.map(one => one.label)).toEqual(['Close']);
  shown[1]!.answer('Close');
  await pass(0);
  expect(release).toHaveBeenCalledTimes(1);
});

it('has notifications fetched while there is a server, and shows none', async () => {
  const { app, bus } = frontend();
  const changes: unknown[] = [];
  const note = (_: unknown, { type }: Notification.IChange): void => void changes.push(type);
  await activate(app, bus);
  Notification.manager.changed.connect(note);
  await pass(10);
  expect(changes).toEqual([]);
  bus.publish(open(EVENTS));
  bus.publish(open(EVENTS));
  await pass(10);
  Notification.manager.changed.disconnect(note);
  expect([changes, messages()]).toEqual([['removed'], []]);
});

it('does without what a frontend has not', async () => {
  const warning = vi.spyOn(console, 'warn').mockImplementation(() => undefined);
  const { app, bus, services, items, fetched } = frontend();
  services.clear();
  await activate(app, bus);
  bus.publish(parked(EVENTS, 'forbidden'));
  expect(messages()).toHaveLength(1);
  await pass(60);
  expect([items, fetched, warning.mock.calls]).toEqual([[], [], []]);
  void app.commands.execute(DETAILS);
  await pass(0);
  expect([shown.length, fetched.length]).toEqual([1, 1]);
});

it('does without a module that a frontend does not share', async () => {
  statusBar.missing = true;
  const { app, bus, items } = frontend();
  await activate(app, bus);
  bus.publish(parked(EVENTS, 'forbidden'));
  expect([items, messages().length]).toEqual([[], 1]);
});

it('does as the settings say, at once and later', async () => {
  const { app, bus, connections, settings } = frontend();
  settings.composite = { notifications: false, allowTokenInUrl: false };
  await activate(app, bus);
  bus.publish(parked(EVENTS, 'forbidden'));
  expect([messages(), connections.allowTokenInUrl]).toEqual([[], false]);
  settings.composite = { notifications: true, allowTokenInUrl: true };
  settings.changed.emit();
  expect([messages().length, connections.allowTokenInUrl]).toEqual([1, true]);
  const set = vi.spyOn(bus, 'allowTokenInUrl', 'set');
  settings.changed.emit();
  expect(set).not.toHaveBeenCalled();
});

it('does as ever where the settings cannot be loaded', async () => {
  const warning = vi.spyOn(console, 'warn').mockImplementation(() => undefined);
  const { app, bus, services } = frontend();
  services.set(ISettingRegistry, { load: () => Promise.reject(new Error('no schema')) });
  await activate(app, bus);
  bus.publish(parked(EVENTS, 'forbidden'));
  expect([messages().length, warning.mock.calls.length]).toEqual([1, 1]);
});

it('knows whose kernel is gone, and forgets those that nobody wants', async () => {
  const { app, bus, connections, widgets } = frontend();
  const context = (id: string): object => {
    const made = { isTerminating: false, isDisposed: false, changeKernel: vi.fn(), name: `${id}.ipynb` };
    const signals = {
      kernelChanged: new Signal(made),
      disposed: new Signal(made),
      sessionChanged: new Signal(made)
    };
    return Object.assign(made, signals, { session: { id: `s-${id}`, kernel: { id, name: 'python3' } } });
  };
  widgets.main!.push(...['a', 'b', 'c'].map(id => ({ sessionContext: context(id) })));
  await activate(app, bus);
  const release = vi.spyOn(connections, 'release');
  await bus.serverSettings!.fetch(new Request(`${BASE}api/sessions/s-b`, { method: 'DELETE' }));
  (widgets.main![2] as { sessionContext: { isTerminating: boolean } }).sessionContext.isTerminating = true;
  ['a', 'b', 'c'].forEach(id => bus.publish(parked(kernel(id), 'gone')));
  (widgets.main![1] as { sessionContext: { session: null } }).sessionContext.session = null;
  await pass(3);
  expect(messages()).toEqual([expect.stringContaining('The kernel of a.ipynb is gone')]);
  expect(release.mock.calls).toEqual([[kernel('b')]]);
});

it('knows which kernels there are where JupyterLab drops them', async () => {
  const { app, bus, widgets } = frontend();
  const changes = ['d', 'e'].map(id => {
    const made = { isTerminating: false, isDisposed: false, changeKernel: vi.fn(), session: null };
    const sessionChanged = new Signal<object, object>(made);
    const signals = { kernelChanged: new Signal(made), disposed: new Signal(made), sessionChanged };
    widgets.main!.push({ sessionContext: Object.assign(made, signals, { name: `${id}.ipynb` }) });
    return () => sessionChanged.emit({ oldValue: { id: `s-${id}`, kernel: { id } }, newValue: null });
  });
  await activate(app, bus);
  bus.publish(open(kernel('e')));
  changes.forEach(change => change());
  await pass(3);
  expect(messages()).toEqual([expect.stringContaining('The kernel of e.ipynb is gone')]);
});

/** Press the button of the only notification. */
async function press(): Promise<void> {
  expect(Notification.manager.count).toBe(1);
  Notification.manager.notifications[0]!.options.actions![0]!.callback(
    new MouseEvent('click', { cancelable: true })
  );
  await pass(0);
}

it('asks in dialogs', async () => {
  const { app, bus, fetched } = frontend();
  await activate(app, bus);
  bus.publish(parked(EVENTS, 'other_server'));
  const opened = vi.spyOn(window, 'open').mockReturnValue(null);
  await press();
  expect(shown[0]?.options.body).toMatch(/does not say where/);
  shown[0]!.answer('Close');
  answer = { body: '{"server": {"base_url": "https://other/"}}', status: 200 };
  await press();
  shown[1]!.answer('Open');
  await pass(0);
  expect(opened).toHaveBeenCalledWith('https://other/', '_blank', 'noopener');
  expect(fetched.map(one => one.url)).toEqual(Array(2).fill(`${BASE}api/token-ws/login`));
});

it('shows the login as a link where the browser opens no window', async () => {
  const { app, bus } = frontend();
  await activate(app, bus);
  bus.publish(parked(EVENTS, 'token_expired'));
  vi.spyOn(window, 'open').mockReturnValue(null);
  await press();
  const { node } = shown[0]!.options.body as Widget;
  const link = node.querySelector('a')!;
  expect([link.textContent, link.href]).toEqual(Array(2).fill(`${BASE}api/token-ws/signed-in`));
  expect([link.target, link.rel]).toEqual(['_blank', 'noopener']);
  expect(node.querySelector('p')?.textContent).toMatch(/did not open a window/);
});

it('a page from elsewhere asks for a token, and uses it for everything', async () => {
  const { app, bus, fetched } = frontend();
  const { serverSettings } = bus;
  const foreign = new Connections({
    baseUrl: BASE,
    token: () => serverSettings!.token,
    onEvent: bus.publish
  });
  bus.provide(serverSettings!, foreign);
  await activate(app, bus);
  bus.publish(parked(EVENTS, 'token_expired'));
  await pass(0);
  await press();
  answer.status = 200;
  shown[0]!.answer('good');
  await pass(0);
  expect([serverSettings!.token, foreign.token]).toEqual(['good', 'good']);
  expect(fetched[fetched.length - 1]?.headers.get('Authorization')).toBe('token good');
});
