/**
 * The status item, and what it shows when asked: plain elements, so that they can stand in any frontend.
 */

import { parseClose, REASONS } from 'jupyter-token-ws';
import { isOver, type Line, type Lost, type State, type View } from './state.js';

/** One connection, in words. */
export interface Row {
  readonly path: string;
  readonly state: Line['state'];
  readonly name: string;
  readonly words: string;
}

export interface Picture {
  readonly view: View;
  readonly rows: readonly Row[];
  /** The state in a word or two. */
  readonly word: string;
  /** The round trip in words; empty where it was not measured. */
  readonly roundTrip: string;
  /** The address of the server. */
  readonly server: string;
}

/** The words around it all. */
export interface Labels {
  readonly connection: string;
  readonly state: string;
  readonly server: string;
  readonly roundTrip: string;
  readonly none: string;
  /** What a click does. */
  readonly details: string;
}

/** Draws an icon into an element. */
export type DrawIcon = (container: HTMLElement, word: View['word']) => void;

/** The rows of all paths that there is something to say of, the troubled ones first. */
export function rows(
  state: State,
  now: number,
  name: (path: string) => string,
  words: (line: Line) => string
): readonly Row[] {
  const current = new Map([...state.lines].filter(([, line]) => !isOver(line, now)));
  for (const [path, lost] of state.lost) {
    if (!current.has(path)) {
      current.set(path, lineOf(lost)); // JupyterLab has given up to reach it
    }
  }
  const all = [...current].map(([path, line]) => ({
    path,
    state: line.state,
    name: name(path),
    words: words(line)
  }));
  return all.sort(
    (a, b) => Number(a.state === 'open') - Number(b.state === 'open') || a.name.localeCompare(b.name)
  );
}

function lineOf({ topic }: Lost): Line {
  const slug = topic === 'gone' ? 'gone' : 'not_found';
  const closed = parseClose(REASONS[slug].code, slug);
  return { state: 'parked', open: 0, closed, cause: null, since: 0, until: 0 };
}

/** What stands in the status bar: a button, and the same word for screen readers when it changes. */
export class StatusItem {
  readonly node = document.createElement('div');
  private readonly _button = document.createElement('button');
  private readonly _icon = element('span', 'jp-TokenWs-icon');
  private readonly _text = element('span', 'jp-TokenWs-word');
  private readonly _spoken = element('span', 'jp-TokenWs-spoken');
  private readonly _labels: Labels;
  private readonly _drawIcon: DrawIcon;

  constructor(labels: Labels, drawIcon: DrawIcon, onClick: () => void) {
    this._labels = labels;
    this._drawIcon = drawIcon;
    this.node.className = 'jp-TokenWs-item';
    this._button.type = 'button';
    this._button.className = 'jp-TokenWs-status';
    this._button.setAttribute('aria-haspopup', 'dialog');
    this._button.addEventListener('click', onClick);
    this._icon.setAttribute('aria-hidden', 'true');
    // The button's name holds the round trip too, which is no news: only the word is announced.
    this._spoken.setAttribute('role', 'status');
    this._button.append(this._icon, this._text);
    this.node.append(this._button, this._spoken);
  }

  show({ view, word, roundTrip }: Picture): void {
    const { connection, details } = this._labels;
    const label = `${connection}: ${word}`;
    const both = roundTrip ? `${word}, ${roundTrip}` : word;
    const before = this._button.dataset.state;
    if (before !== view.word) {
      this._button.dataset.state = view.word;
      this._drawIcon(this._icon, view.word);
      // How it is at first is no news.
      this._spoken.textContent = before === undefined ? '' : label;
    }
    this._text.textContent = view.word === 'connected' ? both : word;
    const full = `${connection}: ${both}`;
    this._button.setAttribute('aria-label', full);
    this._button.title = `${full}\n${details}`;
  }
}

/** The inside of the dialog: kept up to date while it is open. */
export class Details {
  readonly node = element('div', 'jp-TokenWs-details');
  private readonly _facts = document.createElement('dl');
  private readonly _list = document.createElement('tbody');
  private readonly _table = document.createElement('table');
  private readonly _none = document.createElement('p');
  private readonly _labels: Labels;

  constructor(labels: Labels) {
    this._labels = labels;
    const head = document.createElement('thead');
    const titles = document.createElement('tr');
    for (const title of [labels.connection, labels.state]) {
      const cell = document.createElement('th');
      cell.scope = 'col';
      cell.textContent = title;
      titles.append(cell);
    }
    head.append(titles);
    this._table.append(head, this._list);
    this._none.textContent = labels.none;
    this.node.append(this._facts, this._table, this._none);
  }

  show({ rows, word, roundTrip, server }: Picture): void {
    const facts = [
      [this._labels.state, word],
      [this._labels.server, server],
      [this._labels.roundTrip, roundTrip || '–']
    ] as const;
    this._facts.replaceChildren(
      ...facts.flatMap(([name, value]) => {
        const term = document.createElement('dt');
        const said = document.createElement('dd');
        term.textContent = name;
        said.textContent = value;
        return [term, said];
      })
    );
    this._table.hidden = rows.length === 0;
    this._none.hidden = rows.length > 0;
    this._list.replaceChildren(...rows.map(row));
  }
}

function row({ path, state, name, words }: Row): HTMLElement {
  const line = document.createElement('tr');
  line.dataset.path = path;
  line.dataset.state = state;
  const first = document.createElement('th');
  first.scope = 'row';
  first.textContent = name;
  const second = document.createElement('td');
  second.textContent = words;
  line.append(first, second);
  return line;
}

function element(tag: 'span' | 'div', className: string): HTMLElement {
  const made = document.createElement(tag);
  made.className = className;
  return made;
}
