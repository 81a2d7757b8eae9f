"""What the server says where the part for JupyterLab and Notebook is missing."""

from __future__ import annotations

import pytest

from jupyter_token_ws import frontends


@pytest.fixture
def labextensions(tmp_path):
    folder = tmp_path / "labextensions"
    folder.mkdir()
    return folder


@pytest.fixture
def looked_for(labextensions):
    """Where JupyterLab looks; override by parameter."""
    return [str(labextensions)]


@pytest.fixture
def enabled():
    return True


@pytest.fixture
def jp_server_config(looked_for, enabled):
    return {
        "ServerApp": {"jpserver_extensions": {"jupyter_token_ws": True, "jupyterlab": True}},
        "TokenWebSocketApp": {"enabled": enabled},
        "LabApp": {"labextensions_path": looked_for, "extra_labextensions_path": []},
    }


@pytest.fixture
def warned(jp_serverapp, http_server, caplog):
    """Whether it is said when the extensions of the server are started."""

    async def start() -> bool:
        (app,) = jp_serverapp.extension_manager.extension_apps["jupyter_token_ws"]
        caplog.clear()
        app.log.propagate = True
        await app._start_jupyter_server_extension(jp_serverapp)
        return frontends.MISSING in caplog.text

    return start


async def test_missing_part_is_told(warned):
    pytest.importorskip("jupyterlab", reason="it is not among the oldest versions")
    assert await warned()


async def test_installed_part_is_not(warned, labextensions):
    (labextensions / frontends.NAME).mkdir()
    (labextensions / frontends.NAME / "package.json").write_text("{}")
    assert not await warned()


@pytest.mark.parametrize("looked_for", [[]])
async def test_nor_is_one_where_no_labextensions_are_wanted(warned, looked_for):
    assert not await warned()


@pytest.mark.parametrize("enabled", [False])
async def test_nor_where_the_extension_is_off(warned, enabled):
    assert not await warned()
