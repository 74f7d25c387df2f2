"""The reference project fetches and decodes videos."""

from __future__ import annotations

import functools
import http.server
import subprocess
import threading

import imageio_ffmpeg
import pytest
from lib.video import VideoError, fetched, frames, safe_name


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Two red frames, 160x90, as ffmpeg makes them."""
    path = tmp_path_factory.mktemp("video") / "red.mp4"
    source = ("-f", "lavfi", "-i", "color=red:size=160x90:rate=2:duration=1")
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", *source, str(path)], check=True)
    return path


@pytest.fixture
def server(video):
    """Serve the video's folder on loopback; gives the base URL."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/cut.mp4":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b"half")
            else:
                super().do_GET()

        def log_message(self, *_):
            """Keep the test's output clean."""

    handler = functools.partial(Quiet, directory=video.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


@pytest.mark.parametrize(("longest_side", "shape"), [(320, (192, 320, 3)), (40, (32, 32, 3))])
def test_frames_are_scaled_to_multiples_of_32(video, longest_side, shape):
    decoded = list(frames(video, longest_side=longest_side))
    assert [frame.shape for frame in decoded] == [shape, shape]
    red, green, blue = decoded[0].mean(axis=(0, 1))
    assert red > 240
    assert green < 15
    assert blue < 15


def test_a_reader_may_stop_early(video):
    decoding = frames(video, longest_side=320)
    next(decoding)
    decoding.close()


def test_what_is_no_video_is_refused_with_its_path(tmp_path):
    path = tmp_path / "notes.mp4"
    path.write_text("no video")
    with pytest.raises(VideoError, match=r"notes\.mp4 cannot be decoded as a video: .*Invalid data"):
        list(frames(path, longest_side=320))


def test_local_videos_stay_where_they_are(video):
    for url in (str(video), video.as_uri()):
        with fetched(url) as path:
            assert path == video


def test_a_url_is_downloaded_and_removed_afterwards(video, server):
    with fetched(f"{server}/red.mp4?X-Amz-Signature=secret") as path:
        assert path.read_bytes() == video.read_bytes()
    assert not path.exists()


def test_an_unreachable_video_is_named_without_its_signature(server):
    with (
        pytest.raises(VideoError, match=r"/none\.mp4 cannot be fetched: .*404") as caught,
        fetched(f"{server}/none.mp4?X-Amz-Signature=secret"),
    ):
        pass
    assert "secret" not in str(caught.value)


def test_a_video_that_ends_early_is_refused(server):
    with pytest.raises(VideoError, match=r"/cut\.mp4 ended after 4 of 1000 bytes"), fetched(f"{server}/cut.mp4"):
        pass


@pytest.mark.parametrize("url", ["", "ftp://host/a.mp4", "s3://bucket/a.mp4"])
def test_other_addresses_are_refused(url):
    with pytest.raises(VideoError, match="expected a path or an http, https or file URL"), fetched(url):
        pass


def test_a_missing_local_video_is_named(tmp_path):
    with pytest.raises(VideoError, match=r"no video at .*none"), fetched(str(tmp_path / "none.mp4")):
        pass


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("https://key:word@bucket.example/a.mp4?X-Amz-Signature=1#x", "https://bucket.example/a.mp4"),
        ("/data/a.mp4", "/data/a.mp4"),
        ("", ""),
    ],
)
def test_logs_see_no_credentials(url, safe):
    assert safe_name(url) == safe
