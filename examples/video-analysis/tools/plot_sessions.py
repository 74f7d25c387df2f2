"""Draws faces per frame of all sessions in result/sessions.csv."""

import matplotlib.pyplot as plt
import pandas as pd

table = pd.read_csv("result/sessions.csv")
for session, rows in table.groupby("session"):
    plt.plot(rows["frame"], rows["faces"], label=session)
plt.xlabel("frame")
plt.ylabel("faces")
plt.legend()
plt.savefig("result/sessions.png", dpi=160)
