/**
 * The two plugins. This module is loaded before anything of the page shows, so it brings along only what
 * gives the page its sockets; all that is seen comes with the user interface, later and by itself.
 */

import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import type { ServerConnection, ServiceManagerPlugin } from '@jupyterlab/services';
import { bus } from './bus.js';
import { applies, serverSettings } from './settings.js';

/** Milliseconds for which a page that stands is let alone: its documents come first. */
const LATER = 2_000;
/** Milliseconds after which what could not be fetched is fetched again where no event came before. */
const AGAIN = 30_000;

/** Sentences about the sockets, and what a person can do about them. */
const ui: JupyterFrontEndPlugin<void> = {
  id: 'jupyter_token_ws:ui',
  description: 'Tells why connections to the server were refused, and what can be done about it.',
  autoStart: true,
  activate: (app: JupyterFrontEnd): void => {
    // Nobody waits for it, and what goes wrong in it concerns nothing else. It asks the application for
    // the services it can use, so that a frontend without some of them still gets the rest.
    const complain = (error: unknown): void => {
      console.error('jupyter_token_ws: nothing will be told about connections.', error);
    };
    let wanted = false;
    let failed = false;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const load = (): void => {
      if (wanted) {
        return;
      }
      wanted = true;
      clearTimeout(timer);
      import('./ui/index.js').then(
        ({ activate }) => void activate(app, bus).catch(complain),
        error => {
          // The server may be away, and an event will say that it is back. Where only this got lost none will.
          timer = setTimeout(load, AGAIN);
          wanted = false;
          if (!failed) {
            complain(error);
          }
          failed = true;
        }
      );
    };
    bus.subscribe(({ kind }) => {
      if (failed || (kind !== 'open' && kind !== 'closed')) {
        load(); // there may be something to tell
      }
    });
    void app.restored.then(() => setTimeout(load, LATER));
  }
};

/** A settings plugin takes the place of the frontend's own: where it has nothing to do it is not offered. */
const plugins: (ServiceManagerPlugin<ServerConnection.ISettings> | JupyterFrontEndPlugin<void>)[] = applies()
  ? [serverSettings, ui]
  : [ui];

export default plugins;
