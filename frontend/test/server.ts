/** A real server on the loopback address that behaves as a test wants. */

import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Duplex } from 'node:stream';
import { WebSocket as WS, WebSocketServer } from 'ws';

import type { Carrier } from '../src/carrier';
import { KERNEL, MARKER, REASON_MARKER, REASONS, type Slug } from '../src/constants';

/** What came in a handshake. */
export interface Knock {
  readonly path: string;
  readonly query: string;
  readonly offered: readonly string[];
  readonly token: string | null;
}

/** Accept with a subprotocol (or none) and go on; or refuse in plain HTTP. */
export type Answer = { answered: string; then?: (socket: WS) => void } | { status: number };

export const CAPABILITIES = {
  api_versions: ['1.0'],
  token: { subprotocol: MARKER, in_url: true, max_size: 4096 },
  reasons: { subprotocol: REASON_MARKER, mode: 'offered' },
  sockets: ['api/kernels/{id}/channels', 'terminals/websocket/{name}', 'api/events/subscribe']
};

/** The browser's class for node. */
export const native = WS as unknown as new (address: string, protocols: string[]) => Carrier;

export class TestServer {
  readonly knocks: Knock[] = [];
  /** Plain requests, as `GET path`. */
  readonly requests: IncomingMessage[] = [];
  answer: (knock: Knock) => Answer = () => ({ status: 404 });
  request: (request: IncomingMessage, response: ServerResponse) => void = TestServer.withCapabilities();
  private readonly _http: Server;
  private readonly _sockets = new WebSocketServer({
    noServer: true,
    handleProtocols: (): string | false => this._answered || false
  });
  private _answered = '';
  baseUrl = '';

  private constructor() {
    this._http = createServer((request, response) => {
      this.requests.push(request);
      this.request(request, response);
    });
    this._http.on('upgrade', (request: IncomingMessage, stream: Duplex, head: Buffer) => {
      const knock = read(request);
      this.knocks.push(knock);
      const answer = this.answer(knock);
      if ('status' in answer) {
        stream.end(`HTTP/1.1 ${answer.status} No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`);
        return;
      }
      this._answered = answer.answered;
      this._sockets.handleUpgrade(request, stream, head, socket => answer.then?.(socket));
    });
  }

  static async start(): Promise<TestServer> {
    const server = new TestServer();
    await new Promise<void>(resolve => server._http.listen(0, '127.0.0.1', resolve));
    server.baseUrl = `http://127.0.0.1:${(server._http.address() as AddressInfo).port}/user/ann/`;
    return server;
  }

  /** Answers the capabilities, and `api/me` by whether the right token was sent. */
  static withCapabilities(document: unknown = CAPABILITIES, token = 'good') {
    return (request: IncomingMessage, response: ServerResponse): void => {
      if (request.url?.endsWith('/api/token-ws/capabilities') && document) {
        response.setHeader('Content-Type', 'application/json');
        response.end(JSON.stringify(document));
      } else if (request.url?.endsWith('/api/me')) {
        response.statusCode = request.headers.authorization === `token ${token}` ? 200 : 403;
        response.end('{}');
      } else if (request.url?.endsWith('/ann/api')) {
        response.end('{"version": "2.0"}');
      } else {
        response.statusCode = 404;
        response.end();
      }
    };
  }

  get wsUrl(): string {
    return this.baseUrl.replace('http', 'ws');
  }

  get kernel(): string {
    return `${this.wsUrl}api/kernels/1/channels`;
  }

  async stop(): Promise<void> {
    this._sockets.clients.forEach(socket => socket.terminate());
    this._http.closeAllConnections();
    await new Promise(resolve => this._http.close(resolve));
  }
}

/** Refuse as the server does: accept, close with the reason. */
export function refusal(slug: Slug, parameter = ''): Answer {
  const { code, text } = REASONS[slug];
  return {
    answered: REASON_MARKER,
    then: socket => socket.close(code, `${slug}${parameter}: ${text}`)
  };
}

/** Accept as the server does (C1.1) and echo. */
export function echo(knock: Knock): Answer {
  const marker = knock.token !== null ? MARKER : REASON_MARKER;
  const answered = knock.offered.includes(KERNEL) ? KERNEL : knock.offered.includes(marker) ? marker : '';
  return {
    answered,
    then: socket => socket.on('message', (data, binary) => socket.send(data, { binary }))
  };
}

function read(request: IncomingMessage): Knock {
  const url = new URL(request.url ?? '', 'http://x');
  const offered = (request.headers['sec-websocket-protocol'] ?? '').split(',').map(name => name.trim());
  const bearing = offered.find(name => name.startsWith(`${MARKER}.`));
  return {
    path: url.pathname.replace('/user/ann/', ''),
    query: url.search,
    offered: offered.filter(name => name !== '' && name !== bearing),
    token: bearing === undefined ? null : decodeURIComponent(bearing.slice(MARKER.length + 1))
  };
}
