#!/usr/bin/env bash
# # Sixty answers of a support team, for a colleague with PEFT
#
# A data scientist has 60 questions of customers with their answers in a CSV file, and a colleague who works with PEFT. The
# model is the one that `scripts/fetch_model.sh` puts into `models/`. `bash docs/stories/support.sh` runs all this.
#
# First a look at a row as the model gets it, and at which part of it is trained:
lorafit data docs/stories/support.csv --model models/SmolLM2-135M-Instruct.Q4_1.gguf --rows 1

# A run without any settings. What is not given is chosen, with the reasons:
lorafit train --model models/SmolLM2-135M-Instruct.Q4_1.gguf --data docs/stories/support.csv --out runs/support \
  --base-name HuggingFaceTB/SmolLM2-135M-Instruct

# The held-out loss fell to the end, and nothing had to be chosen: the rows are few, so each is seen ten times, and the learning rate is
# that of a model as small as this one. All of it can be set by hand, too, with other values and nothing chosen. What follows is about
# this run:
lorafit train --model models/SmolLM2-135M-Instruct.Q4_1.gguf --data docs/stories/support.csv --out runs/support8 \
  --base-name HuggingFaceTB/SmolLM2-135M-Instruct --preset off --epochs 8 --lr 1e-3 --eval-every 20

# A question that is not among the 60, to the base and to the adapter:
lorafit generate --model models/SmolLM2-135M-Instruct.Q4_1.gguf --chat --max-new-tokens 40 \
  --prompt "I do not like the lamp. How do I send it back?"
lorafit generate --model models/SmolLM2-135M-Instruct.Q4_1.gguf --adapter runs/support8 --chat --max-new-tokens 40 \
  --prompt "I do not like the lamp. How do I send it back?"

# Which programs can load it?
lorafit inspect runs/support8 --model models/SmolLM2-135M-Instruct.Q4_1.gguf | tail -n 12

# The colleague runs this in Python, where the hub has the base, or a folder of its name has it:
#     from peft import AutoPeftModelForCausalLM
#     from transformers import AutoTokenizer
#     
#     model = AutoPeftModelForCausalLM.from_pretrained("runs/support8")
#     tokenizer = AutoTokenizer.from_pretrained("runs/support8")
#     question = [{"role": "user", "content": "I do not like the lamp. How do I send it back?"}]
#     inputs = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
#     answer = model.generate(**inputs, max_new_tokens=40, do_sample=False)
#     print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
#
# PEFT 0.21 with transformers 5.23 printed what lorafit did: "You can return any lamp within 30 days. Print the label at
# lumen.example/returns and drop the parcel at a post office." The losses of the first 16 rows, token by token, were within 1e-4 of
# lorafit's, and the largest logits within 5e-5 (`scripts/check_adapter_in_peft.py`).
