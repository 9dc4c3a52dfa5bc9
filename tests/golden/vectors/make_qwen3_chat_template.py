"""qwen3-chat-template.jsonl: conversations as the text-only Qwen3 template renders them.

    make_qwen3_chat_template.py TEMPLATE > qwen3-chat-template.jsonl

TEMPLATE is the chat_template of Qwen/Qwen3-0.6B's tokenizer_config.json as a file. It is rendered by transformers 5.17.0, which is
how a tokenizer applies it. Each line: name, messages, kwargs (of apply_chat_template), rendered.
"""
import json
import sys

from transformers.utils.chat_template_utils import render_jinja_template

TOOL = {"type": "function", "function": {"name": "weather", "description": "Wetter für einen Ort",
                                         "parameters": {"type": "object", "properties": {"place": {"type": "string"}}}}}


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


CALL = {"type": "function", "function": {"name": "weather", "arguments": {"place": "Köln", "days": 2}}}
PLAIN_CALL = {"name": "weather", "arguments": "{\"place\": \"Rom\"}"}
ASKED = [user("a"), assistant("<think>\nhm\n</think>\n\nb")]
STEP = [user("a"), assistant("<think>\nlook it up\n</think>\n\n", tool_calls=[CALL]), {"role": "tool", "content": "rain"}]

CASES = {
    "one_turn": ([user("hi")], {}),
    "no_thinking": ([user("hi")], {"enable_thinking": False}),
    "thinking": ([user("hi")], {"enable_thinking": True}),
    "no_generation_prompt": ([user("hi")], {"add_generation_prompt": False, "enable_thinking": False}),
    "system": ([{"role": "system", "content": "Be brief."}, user("hi")], {}),
    "system_later": ([user("hi"), {"role": "system", "content": "Be brief."}, user("now")], {}),
    "system_alone": ([{"role": "system", "content": "x"}], {}),
    "history_loses_thoughts": ([*ASKED, user("c")], {}),
    "last_answer_keeps_thoughts": (ASKED, {"add_generation_prompt": False}),
    "last_answer_without_thoughts": ([user("a"), assistant("b")], {"add_generation_prompt": False}),
    "newlines_around_the_answer": ([user("a"), assistant("\n\nb\n\n")], {"add_generation_prompt": False}),
    "newlines_in_history": ([user("a"), assistant("\n\nb\n\n"), user("c")], {}),
    "several_think_blocks": ([user("a"), assistant("x<think>\n\n1\n\n</think>y<think>2</think>\n\n\nz")], {"add_generation_prompt": False}),
    "several_think_blocks_in_history": ([user("a"), assistant("x<think>1</think>y</think>\nz"), user("c")], {}),
    "closed_without_opening": ([user("a"), assistant("so\n</think>\n\nb")], {"add_generation_prompt": False}),
    "opened_without_closing": ([user("a"), assistant("<think>\nso")], {"add_generation_prompt": False}),
    "reasoning_apart": ([user("a"), assistant("b", reasoning_content="\nhm\n\n")], {"add_generation_prompt": False}),
    "reasoning_apart_and_inside": ([user("a"), assistant("<think>1</think>b", reasoning_content="2")], {"add_generation_prompt": False}),
    "reasoning_apart_in_history": ([user("a"), assistant("b", reasoning_content="hm"), user("c")], {}),
    "answer_of_nothing": ([user("a"), {"role": "assistant", "content": None}], {"add_generation_prompt": False}),
    "two_answers": ([user("a"), assistant("<think>1</think>b"), assistant("c")], {"add_generation_prompt": False}),
    "two_answers_no_thoughts": ([user("a"), assistant("\nb"), assistant("c")], {"add_generation_prompt": False}),
    "tools": ([user("hi")], {"tools": [TOOL]}),
    "tools_system": ([{"role": "system", "content": "Be brief."}, user("hi")], {"tools": [TOOL, TOOL], "enable_thinking": False}),
    "tool_step": (STEP, {"tools": [TOOL]}),
    "tool_step_done": ([*STEP, assistant("<think>\nso\n</think>\n\nwet")], {"tools": [TOOL], "add_generation_prompt": False}),
    "tool_steps_in_history": ([*STEP, assistant("wet"), user("and you?")], {}),
    "two_calls": ([user("a"), assistant("both", tool_calls=[CALL, PLAIN_CALL]), {"role": "tool", "content": "1"},
                   {"role": "tool", "content": "2"}], {}),
    "calls_alone": ([user("a"), assistant("", tool_calls=[PLAIN_CALL, CALL])], {"add_generation_prompt": False}),
    "response_as_user": ([user("a"), assistant("<think>1</think>b"), user("<tool_response>\nr\n</tool_response>")], {}),
    "nearly_a_response": ([user("a"), assistant("<think>1</think>b"), user("<tool_response>\nr")], {}),
    "unknown_role": ([user("a"), {"role": "narrator", "content": "x"}], {}),
    "answer_first": ([assistant("<think>1</think>b")], {}),
}


def main():
    template = open(sys.argv[1], encoding="utf-8").read()
    for name, (messages, kwargs) in CASES.items():
        given = {"add_generation_prompt": True, **kwargs}
        rendered = render_jinja_template([messages], chat_template=template, **given)[0][0]
        print(json.dumps({"name": name, "messages": messages, "kwargs": given, "rendered": rendered}, ensure_ascii=False))


main()
