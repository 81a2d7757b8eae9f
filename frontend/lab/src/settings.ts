/**
 * The plugin that gives the page its server settings: stock's, but for the class of websockets.
 */

import { IServerSettings, ServerConnection, type ServiceManagerPlugin } from '@jupyterlab/services';

export const serverSettings: ServiceManagerPlugin<ServerConnection.ISettings> = {
  id: 'jupyter_token_ws:server-settings',
  description: 'Keeps tokens out of websocket URLs.',
  autoStart: true,
  provides: IServerSettings,
  activate: () => ServerConnection.makeSettings()
};
