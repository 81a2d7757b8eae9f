/** The pictures of the status item: they differ in form, not only in colour. */

import { LabIcon } from '@jupyterlab/ui-components';
import type { DrawIcon } from './details.js';
import type { Word } from './state.js';

const icon = (name: string, inside: string): LabIcon =>
  new LabIcon({
    name: `jupyter_token_ws:${name}`,
    svgstr: `<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 16 16">${inside}</svg>`
  });

/** Inside a group: the theme colours whatever has the attribute itself, also if it says `none`. */
const ring = (more: string): string =>
  `<g fill="none"><circle class="jp-icon3" stroke="#616161" stroke-width="1.6" cx="8" cy="8" r="5"${more}/></g>`;

/** A full disc. */
const connected = icon('connected', '<circle class="jp-icon3" fill="#616161" cx="8" cy="8" r="4.5"/>');
/** A ring. */
const idle = icon('idle', ring(''));
/** A ring that is not closed. */
const busy = icon('busy', ring(' stroke-dasharray="5 3"'));
/** A triangle with an exclamation mark. */
const trouble = icon(
  'trouble',
  '<path class="jp-icon-warn0" fill="#f57c00" fill-rule="evenodd" d="M8 1.6 15 14H1Zm-.8 4.9.2 4h1.2l.2-4ZM7.2 11.4h1.6V13H7.2Z"/>'
);

const ICONS: Readonly<Partial<Record<Word, LabIcon>>> = { connected, idle, connecting: busy, waiting: busy };

export const drawIcon: DrawIcon = (container, word) => {
  (ICONS[word] ?? trouble).element({ container, tag: 'span', stylesheet: 'statusBar' });
};
