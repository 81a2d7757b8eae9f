/** The user interface of the connections. */

import type { JupyterFrontEnd } from '@jupyterlab/application';
import type { Bus } from '../bus.js';

export async function activate(app: JupyterFrontEnd, bus: Bus): Promise<void> {
  void app;
  void bus;
}
