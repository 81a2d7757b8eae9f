import { afterEach, expect, it, vi } from 'vitest';
import { PageConfig } from '@jupyterlab/coreutils';
import { goTo } from './page';

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

it('loads the user interface without anybody waiting for it', async () => {
  const activate = vi.fn();
  vi.doMock('../src/ui/index', () => ({ activate }));
  const [ui] = await plugins('');
  const app = {};
  expect(ui?.activate(app)).toBeUndefined();
  const { bus } = await import('../src/bus');
  await vi.waitFor(() => expect(activate).toHaveBeenCalledWith(app, bus));
});

it.each([
  ['cannot be loaded', undefined],
  ['fails', (): Promise<void> => Promise.reject(new Error('broken'))]
])('goes on where the user interface %s', async (_what, activate) => {
  const complaint = vi.spyOn(console, 'error').mockImplementation(() => undefined);
  vi.doMock('../src/ui/index', () => ({ activate }));
  (await plugins(''))[0]?.activate({});
  await vi.waitFor(() => expect(complaint).toHaveBeenCalledOnce());
});
