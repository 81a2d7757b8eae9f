// What JupyterLab's builder is told beyond package.json.

const path = require('node:path');
const { Compilation, sources } = require('webpack');

/**
 * Puts what the entry always asks for into the entry's own file. A page begins nothing before it has both,
 * and would fetch one after the other. They stay two chunks, because webpack cannot wait for the frontend's
 * packages in an entry; chunks that stand in the file before the entry begins count as loaded.
 */
class EntryWithItsChunk {
  apply(compiler) {
    compiler.hooks.thisCompilation.tap('EntryWithItsChunk', compilation => {
      const stage = Compilation.PROCESS_ASSETS_STAGE_OPTIMIZE_INLINE; // the name's hash is summed up later
      compilation.hooks.processAssets.tap({ name: 'EntryWithItsChunk', stage }, () => {
        const [entry] = compilation.entrypoints.values();
        const [file] = entry.getFiles();
        const exposed = new Set(entry.getChildren().flatMap(group => group.getFiles()));
        const parts = [...exposed, file].map(name => compilation.getAsset(name).source);
        compilation.updateAsset(file, new sources.ConcatSource(...parts.flatMap(part => [part, ';\n'])));
        for (const name of exposed) {
          compilation.deleteAsset(name);
        }
      });
    });
  }
}

module.exports = {
  plugins: [new EntryWithItsChunk()],
  resolve: {
    // The package beside this one, as `build.cjs` compiled it. Not from a registry, and no link either.
    alias: { 'jupyter-token-ws': path.resolve(__dirname, 'lib/jupyter-token-ws/index.js') }
  }
};
