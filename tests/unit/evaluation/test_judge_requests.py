import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dragonfly_lit.evaluation.answers import Answer
from dragonfly_lit.evaluation.judge import Judge, parse_score, read_scores
from dragonfly_lit.evaluation.question import Question

QUESTIONS = [
    Question(id=f"v1_{i}", task="mm_vet", text=f"What is {i}?", references=("a cup <AND> a book",), category="rec+ocr")
    for i in range(5)
]
ANSWERS = [
    Answer(key=f"k{i}", id=q.id, task="mm_vet", prompt=q.text, output=f"A cup\n{i}.") for i, q in enumerate(QUESTIONS)
]


class Endpoint:
    """A chat endpoint on the loopback interface that answers what it is told, and remembers what it was asked."""

    def __init__(self, replies):
        self.asked, self.headers, replies = [], [], iter(replies)
        lock = threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    endpoint.asked.append((self.path, body))
                    endpoint.headers.append(dict(self.headers))
                    reply = next(replies, "0.5")
                status = reply if isinstance(reply, int) else 200
                content = json.dumps({"choices": [{"message": {"content": reply}}]}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    made = []

    def start(*replies):
        made.append(Endpoint(replies))
        return made[-1]

    yield start
    for one in made:
        one.server.shutdown()


def test_without_a_judge_the_requests_are_written_and_nobody_is_asked(tmp_path, caplog):
    assert Judge().scores("mm_vet", QUESTIONS, ANSWERS, tmp_path) is None
    rows = [json.loads(line) for line in (tmp_path / "mm_vet.requests.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [q.id for q in QUESTIONS]
    assert rows[2]["prompt"].endswith("What is 2? | a cup <AND> a book | A cup 2. | ")
    assert "none was sent" in caplog.text


def test_a_file_of_scores_is_taken(tmp_path):
    path = tmp_path / "scores.jsonl"
    path.write_text("".join(json.dumps({"id": q.id, "score": i / 10}) + "\n" for i, q in enumerate(QUESTIONS)))
    scores = Judge(scores_file=path).scores("mm_vet", QUESTIONS, ANSWERS, tmp_path)
    assert scores == {f"v1_{i}": i / 10 for i in range(5)}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", 1), ("a", 1)], "'a' has two scores"),
        ([("a", 1.2), ("b", 1)], "score of 'a' is 1.2; it must be a number from 0 to 1"),
        ([("a", None), ("b", 1)], "score of 'a' is None"),
        ([("a", 1), ("c", 1)], "'c' is not a question of t"),
        ([("a", 1)], "1 of 2 questions of t have no score, e.g. 'b'"),
    ],
)
def test_scores_that_do_not_fit_are_named(tmp_path, rows, message):
    path = tmp_path / "scores.jsonl"
    path.write_text("".join(json.dumps({"id": key, "score": score}) + "\n" for key, score in rows))
    with pytest.raises(ValueError, match=message):
        read_scores(path, "t", {"a", "b"})


def test_an_endpoint_is_asked_once_for_each_answer(tmp_path, endpoint, monkeypatch):
    monkeypatch.setenv("JUDGE_API_KEY", "secret")
    server = endpoint(*["0.7"] * 5)
    judge = Judge(base_url=server.url, model="judge-1", parallel=2)
    scores = judge.scores("mm_vet", QUESTIONS, ANSWERS, tmp_path)
    assert scores == {q.id: 0.7 for q in QUESTIONS}
    path, body = server.asked[0]
    assert path == "/v1/chat/completions"
    assert (body["model"], body["temperature"], body["messages"][0]["role"]) == ("judge-1", 0.0, "user")
    assert server.headers[0]["Authorization"] == "Bearer secret"
    assert judge.scores("mm_vet", QUESTIONS, ANSWERS, tmp_path) == scores
    assert len(server.asked) == 5
    assert "secret" not in (tmp_path / "mm_vet.replies.jsonl").read_text()


def test_a_changed_answer_is_judged_anew_and_a_torn_reply_too(tmp_path, endpoint):
    server = endpoint(*["0.7"] * 5, "0.2", "0.3")
    judge = Judge(base_url=server.url, model="judge-1", parallel=1)
    judge.scores("mm_vet", QUESTIONS, ANSWERS, tmp_path)
    cache = tmp_path / "mm_vet.replies.jsonl"
    cache.write_text(cache.read_text()[:-5])
    other = [Answer(key="k", id="v1_0", task="mm_vet", prompt="?", output="Nothing."), *ANSWERS[1:]]
    assert judge.scores("mm_vet", QUESTIONS, other, tmp_path)["v1_0"] in (0.2, 0.3)
    assert len(server.asked) == 7


def test_failures_that_may_pass_are_tried_again(tmp_path, endpoint):
    server = endpoint(503, 429, "no number here", "0.4")
    judge = Judge(base_url=server.url, model="m", parallel=1)
    assert judge.scores("mm_vet", QUESTIONS[:1], ANSWERS[:1], tmp_path) == {"v1_0": 0.4}
    assert [body["temperature"] for _, body in server.asked] == [0.0, 0.0, 0.0, 0.5]


def test_failures_for_good_are_named(tmp_path, endpoint):
    server = endpoint(401)
    with pytest.raises(ValueError, match=r"judge.base_url=http://127.*answered 401"):
        Judge(base_url=server.url, model="m").scores("mm_vet", QUESTIONS[:1], ANSWERS[:1], tmp_path)
    server = endpoint(*[500] * 9)
    with pytest.raises(ValueError, match="answered 500"):
        Judge(base_url=server.url, model="m", retries=2).scores("mm_vet", QUESTIONS[:1], ANSWERS[:1], tmp_path)
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("reply", "score"),
    [("0.7", 0.7), ("1.0", 1.0), ("1", 1.0), ("Score: 0.3.", 0.3), ("0", 0.0), ("2.5", None), ("10", None), ("", None)],
)
def test_a_score_is_read_out_of_a_reply(reply, score):
    assert parse_score(reply) == score


def test_judges_that_make_no_sense_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"judge.scores_file and judge.base_url"):
        Judge(scores_file="a", base_url="http://x", model="m")
    with pytest.raises(ValueError, match=r"needs judge.model"):
        Judge(base_url="http://x")
    with pytest.raises(ValueError, match="not an http or https address"):
        Judge(base_url="file:///etc", model="m")
    with pytest.raises(ValueError, match=r"judge.template lacks the field \{accepted\}"):
        Judge(template="{question} {answer}").scores("mm_vet", QUESTIONS, ANSWERS, tmp_path)
    with pytest.raises(ValueError, match=r"judge.template=prompt.txt is neither a file"):
        Judge(template="prompt.txt").scores("mm_vet", QUESTIONS, ANSWERS, tmp_path)
