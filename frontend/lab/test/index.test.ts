import { afterEach, expect, it, vi } from 'vitest';
import { PageConfig } from '@jupyterlab/coreutils';
import { goTo } from './page';

/** One second, as it is by itself, is little on a busy machine. */
const PATIENT = { timeout: 30_000 };

const HOME = 'https://host/ann/';

afterEach(() => {
  vi.restoreAllMocks();
  vi.resetModules();
  vi.doUnmock('../src/ui/index');
});

async function plugins(capabilities: string): Promise<{ id: string; activate: (app: unknown) => unknown }[]> {
  goTo(`${HOME}lab`);
  PageConfig.setOption('baseUrl', HOME);
  PageConfig.setOption('tokenWebSocket', capabilities);
  return (await import('../src/index')).default as never;
}

it('offers settings where the server has the extension', async () => {
  const found = await plugins('{"api_versions": ["1.0"]}');
  expect(found.map(plugin => plugin.id)).toEqual(['jupyter_token_ws:server-settings', 'jupyter_token_ws:ui']);
});

it('leaves the page its own settings where it has not', async () => {
  const found = await plugins('');
  expect(found.map(plugin => plugin.id)).toEqual(['jupyter_token_ws:ui']);
});

/** An application whose page stands. */
const app = { restored: Promise.resolve() };

it('loads the user interface once the page has stood for a while', async () => {
  vi.useFakeTimers();
  const activate = vi.fn(() => Promise.resolve());
  vi.doMock('../src/ui/index', () => ({ activate }));
  const [ui] = await plugins('');
  expect(ui?.activate(app)).toBeUndefined();
  const { bus } = await import('../src/bus');
  bus.publish({ kind: 'open', path: 'a' });
  await vi.advanceTimersByTimeAsync(1_900);
  expect(activate).not.toHaveBeenCalled();
  await vi.advanceTimersByTimeAsync(200);
  vi.useRealTimers();
  await vi.waitFor(() => expect(activate).toHaveBeenCalledWith(app, bus), PATIENT);
});

it.each([[true], [false]])(
  'loads it once and at once where there is something to tell, before or after: %s',
  async early => {
    const activate = vi.fn(() => Promise.resolve());
    vi.doMock('../src/ui/index', () => ({ activate }));
    const [ui] = await plugins('');
    const { bus } = await import('../src/bus');
    const publish = (): void => bus.publish({ kind: 'unexplained', path: 'a', cause: 'server_down' });
    if (early) {
      publish();
    }
    const never = { restored: new Promise<void>(() => undefined) };
    ui?.activate(never);
    if (!early) {
      publish();
      publish();
    }
    await vi.waitFor(() => expect(activate).toHaveBeenCalledOnce(), PATIENT);
  }
);

it('goes on where the user interface fails', async () => {
  vi.useFakeTimers();
  const complaint = vi.spyOn(console, 'error').mockImplementation(() => undefined);
  vi.doMock('../src/ui/index', () => ({ activate: () => Promise.reject(new Error('broken')) }));
  (await plugins(''))[0]?.activate(app);
  await vi.advanceTimersByTimeAsync(3_000);
  vi.useRealTimers();
  await vi.waitFor(() => expect(complaint).toHaveBeenCalledOnce(), PATIENT);
});

it('tries again where it could not be loaded, as soon as anything happens', async () => {
  const complaint = vi.spyOn(console, 'error').mockImplementation(() => undefined);
  const activate = vi.fn(() => Promise.resolve());
  let reachable = false;
  vi.doMock('../src/ui/index', () => {
    if (!reachable) {
      throw new Error('the server is away');
    }
    return { activate };
  });
  const [ui] = await plugins('');
  ui?.activate(app);
  const { bus } = await import('../src/bus');
  bus.publish({ kind: 'unexplained', path: 'a', cause: 'server_down' });
  await vi.waitFor(() => expect(complaint).toHaveBeenCalledOnce(), PATIENT);
  reachable = true;
  bus.publish({ kind: 'open', path: 'a' });
  await vi.waitFor(() => expect(activate).toHaveBeenCalledOnce(), PATIENT);
});

it('tries again after a while where nothing happens, and complains once', async () => {
  vi.useFakeTimers();
  const complaint = vi.spyOn(console, 'error').mockImplementation(() => undefined);
  const activate = vi.fn(() => Promise.resolve());
  let reachable = false;
  vi.doMock('../src/ui/index', () => {
    if (!reachable) {
      throw new Error('it got lost');
    }
    return { activate };
  });
  const [ui] = await plugins('');
  ui?.activate(app);
  await vi.advanceTimersByTimeAsync(3_000);
  await vi.waitFor(() => expect(complaint).toHaveBeenCalledOnce(), PATIENT);
  await vi.advanceTimersByTimeAsync(32_000);
  reachable = true;
  await vi.advanceTimersByTimeAsync(32_000);
  vi.useRealTimers();
  await vi.waitFor(() => expect(activate).toHaveBeenCalledOnce(), PATIENT);
  expect(complaint).toHaveBeenCalledOnce();
});
