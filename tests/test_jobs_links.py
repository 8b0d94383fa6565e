"""Links to pictures: which are the same, when they expire, and which can't be meant as they are written."""

from __future__ import annotations

import base64
from pathlib import Path

import pandas as pd
import pytest

from dreamo_batch.jobs import links
from dreamo_batch.jobs.links import judge_url
from dreamo_batch.jobs.prepare import prepare, validate
from dreamo_batch.jobs.references import CheckOptions, ImageSource, Source, check, read_source

BASE = Path("/data")


@pytest.mark.parametrize(
    ("url", "is_public"),
    [
        ("https://example.com/a.png", True),
        ("HTTPS://EXAMPLE.COM/a.png", True),
        ("https://8.8.8.8/a.png", True),
        ("https://例子.中国/a.png", True),
        ("http://localhost:8000/a.png", False),
        ("http://192.168.1.2/a.png", False),
        ("http://[::1]/a.png", False),
        ("http://nas/a.png", False),
        ("http://nas.local/a.png", False),
    ],
)
def test_hosts_that_the_service_can_not_reach_are_warned_of(url, is_public):
    """The local gateway may reach them, so they are not refused."""
    assert read_source(url, BASE).location == url
    assert (judge_url(url) is None) == is_public


SIGNED = {
    "AWS v4": "https://b.s3.eu-central-1.amazonaws.com/fox.png?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=K%2F1"
    "&X-Amz-Date=20200101T00000{n}Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature={n}a&x-id=GetObject",
    "AWS v2": "https://b.s3.amazonaws.com/fox.png?AWSAccessKeyId=K{n}&Expires=157783686{n}&Signature={n}",
    "Google v4": "https://storage.googleapis.com/b/fox.png?X-Goog-Algorithm=A&X-Goog-Date=20200101T00000{n}Z"
    "&X-Goog-Expires=60&X-Goog-Signature={n}",
    "Google v2": "https://storage.googleapis.com/b/fox.png?GoogleAccessId=a%40b&Expires=157783686{n}&Signature={n}",
    "Azure": "https://a.blob.core.windows.net/c/fox.png?sv=2024-11-04&st=2020-01-01&se=2020-01-01T00%3A01%3A0{n}Z&sr=b"
    "&sp=r&sig={n}%3D",
    "CloudFront": "https://d1.cloudfront.net/fox.png?Expires=157783686{n}&Signature={n}__&Key-Pair-Id=K",
    "Discord": "https://cdn.discordapp.com/attachments/1/2/fox.png?ex=5e0be23{hex}&is=5e0a90b0&hm=0{n}&",
    "OSS": "https://b.oss-cn-hangzhou.aliyuncs.com/fox.png?OSSAccessKeyId=K&Expires=157783686{n}&Signature={n}",
    "TOS": "https://b.tos-cn-beijing.volces.com/fox.png?X-Tos-Algorithm=A&X-Tos-Credential=K&X-Tos-Date=20200101T00000{n}Z"
    "&X-Tos-Expires=60&X-Tos-SignedHeaders=host&X-Tos-Signature={n}",
    "COS": "https://b.cos.ap-guangzhou.myqcloud.com/fox.png?q-sign-algorithm=sha1&q-ak=K&q-sign-time=1577836800;157783686{n}"
    "&q-key-time=1;2&q-header-list=&q-url-param-list=&q-signature={n}",
    "BOS": "https://b.bj.bcebos.com/fox.png?authorization=bce-auth-v1%2FK%2F2020-01-01T00%3A00%3A0{n}Z%2F60%2F%2F{n}",
    "Qiniu": "https://cdn.example.com/fox.png?e=157783686{n}&token=K-_{n}:ab%3D",
    "Upyun": "https://b.test.upcdn.net/fox.png?_upp=2&_upt=abcdef1{n}157783686{n}",
    "Google CDN": "https://a.example.com/fox.png?Expires=157783686{n}&KeyName=k&Signature={n}",
    "imgix": "https://a.imgix.net/fox.png?expires=157783686{n}&s={n}a",
    "nginx": "https://a.example.com/fox.png?md5={n}a&expires=157783686{n}",
    "Cloudflare": "https://imagedelivery.net/h/fox/public?exp=157783686{n}&sig={n}a",
    "ImageX": "https://p3.byteimg.com/fox.png?lk3s={n}&x-expires=157783686{n}&x-signature={n}a%3D",
    "Fastly": "https://f.example.com/fox.png?token=157783686{n}_a6cbe4fab2f574d4d58436fa4b44bdbf765b2674{n}",
    "Akamai": "https://a.example.com/fox.png?hdnts=st=1~exp=157783686{n}~acl=/*~hmac={n}",
    "Akamai by its own name": "https://a.example.com/fox.png?__token__=exp=157783686{n}~hmac={n}",
    "bunny.net": "https://z.b-cdn.net/fox.png?token={n}&token_path=%2F&expires=157783686{n}",
    "Facebook": "https://scontent.xx.fbcdn.net/v/fox.png?_nc_cat={n}&ccb=1-7&oh=00_{n}&oe=5e0be23{hex}",
    "Notion": "https://file.notion.so/f/fox.png?expirationTimestamp=157783686{n}000&signature={n}",
}


@pytest.mark.parametrize("scheme", SIGNED)
def test_links_signed_again_are_the_same_picture(scheme):
    """The signature says who may read until when, not which picture it is; the rest of the query does."""
    first, second = (SIGNED[scheme].format(n=n, hex="cd"[n - 1]) for n in (1, 2))
    assert links.canonical(first) == links.canonical(second) == first.partition("?")[0]
    other = first.replace("?", "?versionId=2&")
    assert links.canonical(other) == first.partition("?")[0] + "?versionId=2"
    assert links.expires_at(first) == pytest.approx(1577836861)


def test_a_token_says_its_end_or_none():
    """A JSON Web Token holds it; an address that is no sign of a signature keeps its parameters."""
    claims = base64.urlsafe_b64encode(b'{"exp": 1577836861}').decode().rstrip("=")
    link = f"https://p.supabase.co/storage/v1/object/sign/b/fox.png?token=e30.{claims}.s"
    assert links.expires_at(link) == 1577836861
    assert links.canonical(link) == link.partition("?")[0]
    endless = "https://firebasestorage.googleapis.com/v0/b/x/o/fox.png?alt=media&token=1"
    assert (links.canonical(endless), links.expires_at(endless)) == (endless[:-8], None)
    for other in (
        "https://h.example/a?token=1",
        "https://h.example/a?e=5&token=1",
        "https://h.example/a?oh=1&oe=2",
    ):
        assert links.canonical(other) == other


@pytest.mark.parametrize(
    ("link", "site"),
    [
        ("https://drive.google.com/file/d/1A/view?usp=sharing", "Google Drive"),
        ("https://drive.google.com/uc?export=download&id=1A", None),
        ("https://www.dropbox.com/s/abc/fox.png?dl=0", "Dropbox"),
        ("https://www.dropbox.com/scl/fi/abc/fox.png?rlkey=1", "Dropbox"),
        ("https://www.dropbox.com/s/abc/fox.png?dl=1", None),
        ("HTTPS://GitHub.com/o/r/blob/main/fox.png", "GitHub"),
        ("https://github.com/o/r/raw/main/fox.png", None),
        ("https://github.com/o/r/blob/main/fox.png?raw=true", None),
        ("https://1drv.ms/i/s!A", "OneDrive"),
        ("https://huggingface.co/datasets/o/d/blob/main/fox.png", "Hugging Face"),
        ("https://huggingface.co/datasets/o/d/resolve/main/fox.png", None),
        ("https://imgur.com/gallery/a1", "Imgur"),
        ("https://i.imgur.com/a1.jpg", None),
        ("https://commons.wikimedia.org/wiki/File:Fox.jpg", "Wikimedia"),
        ("https://de.wikipedia.org/wiki/Datei:Fuchs.jpg", "Wikimedia"),
        ("https://commons.wikimedia.org/wiki/Special:FilePath/Fox.jpg", None),
        ("https://upload.wikimedia.org/wikipedia/commons/a/ab/Fox.jpg", None),
        ("https://drive.google.com/drive/folders/1A", "Google Drive"),
        ("https://x.com/fox/status/1/photo/1", "a website"),
        ("https://www.notion.so/image/fox.png", None),
        ("https://www.notion.so/signed/https%3A%2F%2Fh.example%2Ffox.png", None),
        ("https://app.box.com/s/a1", "a file sharing site"),
        ("https://app.box.com/shared/static/a1.png", None),
    ],
)
def test_a_link_to_a_page_about_a_picture_is_warned_of(link, site):
    """The service would be given HTML; a warning says what to write instead."""
    found = validate(pd.DataFrame({"image": [link], "prompt": "a"}))
    assert found["code"].tolist() == ["image-url-of-page"] * (site is not None)
    assert found["severity"].isin(["warning"]).all()
    assert found["message"].str.contains(site or "", regex=False).all()


def test_a_cloudfront_policy_says_its_end():
    """A custom policy is JSON in an alphabet of its own."""
    policy = b'{"Statement":[{"Condition":{"DateLessThan":{"AWS:EpochTime":1577836861}}}]}'
    packed = base64.b64encode(policy).decode().translate(str.maketrans("+=/", "-_~"))
    link = f"https://d1.cloudfront.net/fox.png?Policy={packed}&Signature=1&Key-Pair-Id=K"
    assert links.expires_at(link) == 1577836861
    assert links.expires_at(link.replace("__", "")) == 1577836861
    assert links.expires_at("https://f1.backblazeb2.com/file/b/fox.png?Authorization=token") is None
    assert links.canonical(link) == "https://d1.cloudfront.net/fox.png"


@pytest.mark.parametrize(
    ("link", "code", "words"),
    [
        ("https://h.example/a.png", None, ""),
        ("https://h.example/a.webp?v=1", "image-url-format", "ends in .webp"),
        ("https://h.example/a.webp?fm=jpg", None, ""),
        ("https://h.example/a.png?of=b.webp", None, ""),
        ("https://h.example/get?of=[a.png]", None, ""),
        ("https://h.example/a.png,https://h.example/b.png", "image-bad-url", "it holds several links"),
        ("https://h.example/a.png https://h.example/b.png", "image-bad-url", "it holds several links"),
        ("https://web.archive.org/web/2020/https://h.example/a.png", None, ""),
        ("https://h.example/a.png,", "image-bad-url", "punctuation after"),
        ("https://h.example/a.png?b=1&amp;c=2", "image-bad-url", "&amp;"),
    ],
)
def test_a_link_that_can_not_be_meant_as_it_is_written_is_reported(link, code, words):
    """As other programs write links, and what the service wouldn't read."""
    found = validate(pd.DataFrame({"image": [link], "prompt": "a"}))
    assert found["code"].tolist() == [code] * (code is not None)
    assert found["message"].str.contains(words, regex=False).all()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://h.example/fox.png#1", "https://h.example/fox.png"),
        ("HTTPS://H.Example:443/fox.png", "https://h.example/fox.png"),
        ("https://h.example/%7efox%2f.png", "https://h.example/~fox%2F.png"),
        ("https://h.example/caf\u00e9.png?q=\u00e9", "https://h.example/caf%C3%A9.png?q=%c3%a9"),
        ("https://b\u00fccher.example/a.png", "https://xn--bcher-kva.example/a.png"),
        ("https://h.example", "https://h.example/"),
    ],
)
def test_the_spelling_of_a_link_does_not_count(one, other):
    """Fragment, case of the host, default port, escapes of the same characters."""
    assert links.canonical(one) == links.canonical(other)
    jobs = prepare(pd.DataFrame({"image": [one, other], "prompt": "a", "seed": 1}), entropy="e").jobs
    assert [job.image.sent_location for job in jobs.values()] == [one]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://h.example/fox.png?id=1", "https://h.example/fox.png?id=2"),
        ("https://h.example/fox.png?Signature=1", "https://h.example/fox.png?Signature=2"),
        ("https://h.example/Fox.png", "https://h.example/fox.png"),
        ("https://h.example/a%2Fb.png", "https://h.example/a/b.png"),
        ("https://h.example:8443/fox.png", "https://h.example/fox.png"),
        (
            "https://b.example/f.png?x-oss-process=resize,w_1&x-oss-signature=1",
            "https://b.example/f.png?x-oss-signature=1",
        ),
    ],
)
def test_what_may_lead_to_another_picture_counts(one, other):
    """Only parameters of a whole signature are left out."""
    assert links.canonical(one) != links.canonical(other)


EXPIRED, SOON = "image-link-expired", "image-link-expires-soon"


@pytest.mark.parametrize("scheme", SIGNED)
def test_an_expired_link_is_an_error(scheme):
    """Clocks may be a few minutes wrong; a link that ends before its row is likely sent is warned of."""
    link = SIGNED[scheme].format(n=1, hex="c")
    end = links.expires_at(link)

    def found(after_s: float, **how) -> list[tuple[str, str]]:
        at = CheckOptions(BASE, at=end + after_s, **how)
        return [(one.severity, one.code) for one in check(Source("url", link), at).findings]

    assert found(-400) == []
    assert found(-200) == [("warning", SOON)]
    assert found(-1000, n_rows=500) == [("warning", SOON)]
    assert found(200) == [("warning", EXPIRED)]
    assert found(301) == [("error", EXPIRED)]
    known = {links.canonical(link): ImageSource("url", link, "0", link, "0")}
    assert (found(301, known_images=known), found(-200, known_images=known)) == ([("warning", EXPIRED)], [])
    problems = validate(pd.DataFrame({"image": [link], "prompt": "a"}))
    assert problems[["severity", "code"]].to_numpy().tolist() == [["error", EXPIRED]]


@pytest.mark.parametrize("end", ["", "soon", "9" * 400, "%00", "-1e999"])
def test_an_end_that_can_not_be_read_is_none(end):
    """A link is not refused for what its parameters don't say."""
    for link in (
        f"https://h.example/a?AWSAccessKeyId=K&Signature=1&Expires={end}",
        f"https://h.example/a?X-Amz-Signature=1&X-Amz-Date={end}&X-Amz-Expires=5",
        f"https://h.example/a?Policy={end}&Signature=1&Key-Pair-Id=K",
        f"https://h.example/a?ex={end}&is=1&hm=2",
    ):
        codes = [one.code for one in check(Source("url", link), CheckOptions(BASE)).findings]
        assert "image-link-expired" not in codes
