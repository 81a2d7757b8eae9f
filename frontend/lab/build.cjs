// Builds ../../jupyter_token_ws/labextension: both packages' TypeScript, then JupyterLab's own builder.
// Called by tools/labextension.py, which sees to node_modules and knows when there is anything to do.

const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');

const data = require('./package.json');

function node(script, ...options) {
  const command = [require.resolve(script), ...options];
  const { status } = spawnSync(process.execPath, command, { cwd: __dirname, stdio: 'inherit' });
  if (status !== 0) {
    process.exit(1); // it said why
  }
}

// What was compiled from a file that is gone must not stay.
fs.rmSync(path.join(__dirname, 'lib'), { recursive: true, force: true });
node('typescript/bin/tsc', '-p', '../tsconfig.build.json', '--outDir', 'lib/jupyter-token-ws');
node('typescript/bin/tsc', '-p', 'tsconfig.build.json');

// The builder wants to know what the frontend has, and takes from there which versions to ask for at run
// time. That is JupyterLab's own package.json usually, with ranges that begin at the version it is of;
// this begins at the oldest we work with. All are the frontend's, none may be brought along a second time.
const provided = data.peerDependencies;
const core = path.join(__dirname, 'lib', 'frontend');
fs.mkdirSync(core);
fs.writeFileSync(
  path.join(core, 'package.json'),
  JSON.stringify({ dependencies: provided, jupyterlab: { singletonPackages: Object.keys(provided) } })
);
node('@jupyterlab/builder/lib/build-labextension.js', '--core-path', core, __dirname);

const output = path.join(__dirname, data.jupyterlab.outputDir);
fs.copyFileSync(path.join(__dirname, 'install.json'), path.join(output, 'install.json'));
