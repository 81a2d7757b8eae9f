/**
 * The user interface of the connections: gives the controller what there is of JupyterLab here. A frontend
 * that lacks a service (Notebook has no status bar) does without what needs it.
 */

import type { JupyterFrontEnd } from '@jupyterlab/application';
import { Dialog, ICommandPalette, InputDialog, Notification, showDialog } from '@jupyterlab/apputils';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { ITranslator, nullTranslator, type TranslationBundle } from '@jupyterlab/translation';
import { Widget } from '@lumino/widgets';
import type { Bus } from '../bus.js';
import { Controller, type Ask } from './controller.js';
import { Details, StatusItem, type Labels, type Picture } from './details.js';
import { Documents, type DocumentWidget } from './documents.js';
import { drawIcon } from './icons.js';
import { Server, watchDeletions } from './server.js';
import '../../style/base.css';

/** The plugin's id, under which its settings are kept too. */
const ID = 'jupyter_token_ws:ui';
const SHOW_DETAILS = 'jupyter-token-ws:details';
/** Where a page may have documents. Not every shell knows every area. */
const AREAS = ['main', 'left', 'right', 'down'];
/** Milliseconds after which the page is busy no longer with starting: the round trip can be measured. */
const SETTLED = 5_000;
/** Milliseconds that the first connection is let alone. */
const FIRST = 1_000;

export async function activate(app: JupyterFrontEnd, bus: Bus): Promise<void> {
  const { connections, serverSettings: settings } = bus;
  if (!connections || !settings) {
    return; // nothing is ever told, as in stock
  }
  const [translator, registry, palette, statusBar] = await Promise.all([
    app.resolveOptionalService(ITranslator),
    app.resolveOptionalService(ISettingRegistry),
    app.resolveOptionalService(ICommandPalette),
    // A module that not every frontend shares.
    import('@jupyterlab/statusbar')
      .then(({ IStatusBar }) => app.resolveOptionalService(IStatusBar))
      .catch(() => null)
  ]);
  const trans = (translator ?? nullTranslator).load('jupyter_token_ws');
  const labels = labelsOf(trans);

  const viewers = new Set<(picture: Picture) => void>();
  let picture: Picture | null = null;
  let fetched = false;
  const controller = new Controller({
    connections,
    server: new Server({
      settings,
      connections,
      setToken: token => bus.setToken(token)
    }),
    documents: report => {
      const documents = new Documents({
        widgets: () => widgetsOf(app),
        refresh: () => app.serviceManager.sessions.refreshRunning(),
        alive: async id => {
          const { kernels } = app.serviceManager;
          await kernels.refreshRunning();
          return [...kernels.running()].some(kernel => kernel.id === id);
        },
        onLost: (path, lost) => report({ kind: 'lost', path, lost }),
        onSettled: (path, free) => {
          report({ kind: 'settled', path });
          if (free) {
            connections.release(path); // nothing to remember
          }
        }
      });
      watchDeletions(settings, path => documents.deletes(path));
      return documents;
    },
    manager: Notification.manager,
    trans,
    ask: dialogs(trans),
    show: shown => {
      picture = shown;
      if (!fetched && shown.view.word === 'connected') {
        fetched = true;
        setTimeout(fetchToasts, FIRST);
      }
      viewers.forEach(show => show(shown));
    },
    watched: () => viewers.size > 0
  });
  const addViewer = (show: (picture: Picture) => void): void => {
    viewers.add(show);
    show(picture as Picture);
  };

  let open: Dialog<unknown> | null = null;
  const showDetails = async (): Promise<void> => {
    if (open) {
      return;
    }
    const details = new Details(labels);
    const show = (shown: Picture): void => details.show(shown);
    addViewer(show);
    void controller.measure();
    const { remedy } = controller;
    const buttons = [Dialog.okButton({ label: trans.__('Close') })];
    if (remedy) {
      buttons.unshift(Dialog.createButton({ label: remedy.label, accept: false }));
    }
    const title = trans.__('Connections to the server');
    open = new Dialog({ title, body: new Widget({ node: details.node }), buttons, hasClose: true });
    open.node.setAttribute('aria-label', title);
    const { button } = await open.launch();
    open = null;
    viewers.delete(show);
    if (remedy && button === buttons[0]) {
      remedy.run();
    }
  };

  app.commands.addCommand(SHOW_DETAILS, {
    label: trans.__('Show Connections to the Server'),
    describedBy: { args: { type: 'object', properties: {} } },
    execute: showDetails
  });
  palette?.addItem({ command: SHOW_DETAILS, category: trans.__('Help') });

  if (statusBar) {
    const item = new StatusItem(labels, drawIcon, () => void app.commands.execute(SHOW_DETAILS));
    statusBar.registerStatusItem(ID, { item: new Widget({ node: item.node }), align: 'left', rank: 50 });
    addViewer(shown => item.show(shown));
  }
  setTimeout(() => void controller.measure(), SETTLED);

  await follow(registry, bus, controller);
  bus.subscribe(controller.onEvent);
}

/**
 * JupyterLab fetches what shows notifications from the server with the first of them, and never again if that
 * fails: then nobody would ever be told that the server is down, nor anything after that. So have it fetched
 * in time, by the only thing that does so without showing anything: the word that a notification is gone.
 */
function fetchToasts(): void {
  const { changed } = Notification.manager as { readonly changed: { emit?(change: unknown): void } };
  const notification = { id: ID, message: '', type: 'default', options: {} };
  changed.emit?.({ type: 'removed', notification });
}

/** Do as the settings say, now and whenever they change. Without settings the defaults hold. */
async function follow(registry: ISettingRegistry | null, bus: Bus, controller: Controller): Promise<void> {
  try {
    const settings = await registry?.load(ID);
    const obey = (): void => {
      controller.notices = settings?.composite['notifications'] !== false;
      const allowed = settings?.composite['allowTokenInUrl'] !== false;
      if (settings && bus.allowTokenInUrl !== allowed) {
        bus.allowTokenInUrl = allowed;
      }
    };
    obey();
    settings?.changed.connect(obey);
  } catch (error) {
    console.warn('jupyter_token_ws: the settings could not be loaded.', error);
  }
}

function* widgetsOf(app: JupyterFrontEnd): Iterable<DocumentWidget> {
  for (const area of AREAS) {
    try {
      yield* app.shell.widgets(area) as Iterable<unknown> as Iterable<DocumentWidget>;
    } catch {
      // An area that this shell does not have.
    }
  }
}

function labelsOf(trans: TranslationBundle): Labels {
  return {
    connection: trans.__('Connection'),
    state: trans.__('State'),
    server: trans.__('Server'),
    roundTrip: trans.__('Round trip'),
    none: trans.__('No document of this page needs a connection at the moment.'),
    details: trans.__('Click for details')
  };
}

function dialogs(trans: TranslationBundle): Ask {
  return {
    token: async (title, label) => (await InputDialog.getPassword({ title, label })).value,
    confirm: async (title, body, yes) => {
      const buttons = [Dialog.cancelButton(), Dialog.okButton({ label: yes })];
      return (await showDialog({ title, body, buttons })).button.accept;
    },
    tell: async (title, body, address) => {
      const buttons = [Dialog.okButton({ label: trans.__('Close') })];
      await showDialog({ title, body: address === undefined ? body : withLink(body, address), buttons });
    }
  };
}

function withLink(body: string, address: string): Widget {
  const said = document.createElement('p');
  said.textContent = body;
  const link = document.createElement('a');
  link.textContent = link.href = address;
  link.target = '_blank';
  link.rel = 'noopener';
  const node = document.createElement('div');
  node.append(said, link);
  return new Widget({ node });
}
