"""Chat rows with tools as Parquet, as pyarrow (and so the datasets library) writes them: fixtures/data/chat_*.parquet
in three compressions, and chat_parquet.json with what a reader should find, nulls left out. bomb_*.parquet are a page of
128 MiB in few bytes.

Run from the repository: python scripts/make_parquet_fixtures.py
"""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

FOLDER = Path(__file__).parent.parent / "fixtures" / "data"

ROWS = [
    {
        "id": 7,
        "score": 0.5,
        "messages": [
            {"role": "user", "content": "hot?"},
            {"role": "assistant", "content": "yes", "tags": ["a", "b"]},
        ],
    },
    {
        "id": 8,
        "messages": [
            {"role": "system", "content": "be short"},
            {"role": "user", "content": "and é?", "name": "Ann"},
            {"role": "assistant", "content": "no"},
        ],
        "source": "web",
    },
    {
        "id": 9,
        "messages": [
            {"role": "user", "content": "hm"},
            {"role": "assistant", "content": "ok", "tool_calls": []},
        ],
        "image": b"\xff\xd8",
    },
]


def main():
    message = pa.struct(
        {
            "role": pa.string(),
            "content": pa.string(),
            "name": pa.string(),
            "tags": pa.list_(pa.string()),
            "tool_calls": pa.list_(
                pa.struct(
                    {
                        "type": pa.string(),
                        "function": pa.struct({"name": pa.string(), "arguments": pa.string()}),
                    }
                )
            ),
        }
    )
    schema = pa.schema(
        {
            "id": pa.int64(),
            "score": pa.float32(),
            "messages": pa.list_(message),
            "source": pa.dictionary(pa.int32(), pa.string()),
            "image": pa.binary(),
        }
    )
    table = pa.Table.from_pylist(ROWS, schema=schema)
    for compression in ["snappy", "zstd", "gzip"]:
        # A row group of two rows and one of one.
        pq.write_table(table, FOLDER / f"chat_{compression}.parquet", compression=compression, row_group_size=2)
    # What is not read, and bytes where text is wanted.
    delta = pa.table({"question": ["q", "r"], "answer": ["a", "b"]})
    pq.write_table(delta, FOLDER / "delta.parquet", use_dictionary=False, column_encoding="DELTA_BYTE_ARRAY")
    pq.write_table(pa.table({"question": ["q"], "answer": ["a"], "system": [b"\xff\xfe"]}), FOLDER / "bytes.parquet")
    bomb = pa.table({"text": [" " * (1 << 20)] * 128})
    for compression in ["zstd", "gzip"]:
        path = FOLDER / f"bomb_{compression}.parquet"
        one_page = {"data_page_size": 1 << 30, "write_batch_size": 1 << 20, "use_dictionary": False}
        pq.write_table(bomb, path, compression=compression, write_statistics=False, **one_page)
    # The picture is no text, and no field that is read.
    found = [{key: value for key, value in row.items() if key != "image"} for row in ROWS]
    (FOLDER / "chat_parquet.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


main()
