"""Solves planning problems with HiGHS, for the tests to compare with.

usage: plan.py DIRECTORY

Reads every NAME.json in the directory (a problem as `heliostat_optimizer::plan::
problem::Problem` is serialised) and prints one JSON object: NAME -> [optimum, value
of the linear program], null where HiGHS finds none. Shares no code with what it
judges. A job is a flow through (slot, work done, where it runs). That no placing of
jobs exceeds a contract is said by a price of its places, chosen by binaries:

    most below c  =  min over prices q of  places · q + sum over devices of max(0, p - q)
"""

import itertools
import json
import pathlib
import sys

import highspy
import numpy as np

REST, AWAY, HOME = 0, 1, 2


class Model:
    def __init__(self, integer):
        self.highs = highspy.Highs()
        self.highs.setOptionValue("output_flag", False)
        self.highs.setOptionValue("mip_rel_gap", 1e-9)
        self.highs.setOptionValue("mip_abs_gap", 1e-9)
        self.highs.setOptionValue("mip_feasibility_tolerance", 1e-9)
        self.integer = integer

    def column(self, cost):
        place = self.highs.getNumCol()
        self.highs.addCol(cost, 0.0, 1.0, 0, [], [])
        if self.integer:
            self.highs.changeColIntegrality(place, highspy.HighsVarType.kInteger)
        return place

    def row(self, low, high, entries):
        entries = [(c, v) for c, v in entries.items() if v != 0.0]
        columns = np.array([c for c, _ in entries], dtype=np.int32)
        values = np.array([v for _, v in entries], dtype=float)
        self.highs.addRow(low, high, len(entries), columns, values)

    def optimum(self):
        self.highs.run()
        if self.highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            return None
        return self.highs.getInfo().objective_function_value


def bound_to_stay(job, slot):
    fastest = max(l["quanta"] for l in job["levels"])
    return (
        job.get("home") is not None
        and job["running"]
        and not job["interruptible"]
        and job["release"] == 0
        and slot * fastest < job["work"]
    )


def may_stay(job, slot):
    slowest = min(l["quanta"] for l in job["levels"])
    return (
        job.get("home") is not None
        and job["running"]
        and job["release"] == 0
        and slot * slowest < job["work"]
    )


def places(problem, c, slot):
    held = sum(j["home"][c] for j in problem["jobs"] if bound_to_stay(j, slot))
    return problem["contracts"][c]["devices"] - held


def share(problem, c, slot):
    """Least share of other gangs that is covered, over all sets of jobs that stay."""
    pinned = sum(j["gang"] for j in problem["jobs"] if j["running"] and not j["interruptible"])
    bound = [j for j in problem["jobs"] if bound_to_stay(j, slot)]
    free = [j for j in problem["jobs"] if may_stay(j, slot) and not bound_to_stay(j, slot)]
    wanted = sum(j["gang"] for j in problem["jobs"] if j["release"] <= slot)
    used = min(max(problem["devices"], pinned), wanted)
    least = 1.0
    for count in range(len(free) + 1):
        for chosen in itertools.combinations(free, count):
            stay = bound + list(chosen)
            below = problem["contracts"][c]["devices"] - sum(j["home"][c] for j in stay)
            rest = used - sum(j["gang"] for j in stay)
            least = min(least, below / rest if rest > 0 and below > 0 else 0.0)
    return least


def after_the_end(job, left, slots):
    if left <= 0:
        return 0.0
    late = 0.0
    if job["deadline"] is not None:
        late = job["late"] * max(0.0, slots + left / 4.0 - max(job["deadline"], slots))
    return job["terminal"] * left + late


def flow(model, problem, job, note):
    """Adds a job's flow; `note(slot, level, mode, column)` is told of each run."""
    slots = len(problem["slots"])
    nodes = {}

    def edge(tail, head, cost):
        column = model.column(cost)
        nodes.setdefault(tail, {})[column] = nodes.setdefault(tail, {}).get(column, 0.0) - 1.0
        nodes.setdefault(head, {})[column] = nodes.setdefault(head, {}).get(column, 0.0) + 1.0
        return column

    mode = (HOME if job.get("home") is not None else AWAY) if job["running"] else REST
    source, sink = (0, 0, mode), "end"
    nodes[source] = {}
    front = {source}
    for t, slot in enumerate(problem["slots"]):
        following = set()
        waiting = 0.0
        if t >= job["release"]:
            waiting = job["hold"]
            if job["deadline"] is not None and t >= job["deadline"]:
                waiting += job["late"]
        for _, done, before in sorted(front):
            tail = (t, done, before)
            if done >= job["work"]:
                edge(tail, sink, 0.0)
                continue
            if before == REST or job["interruptible"]:
                head = (t + 1, done, REST)
                edge(tail, head, waiting + (job["pause"] if before != REST else 0.0))
                following.add(head)
            if t < job["release"]:
                continue
            after = HOME if before == HOME else AWAY
            for l, level in enumerate(job["levels"]):
                cost = job["gang"] * (level["energy"] * slot["cost"] + level["slow"])
                head = (t + 1, min(done + level["quanta"], job["work"]), after)
                note(t, level, after, edge(tail, head, waiting + cost))
                following.add(head)
        front = following
    for node in sorted(front):
        edge(node, sink, after_the_end(job, job["work"] - node[1], slots))
    for node, entries in nodes.items():
        balance = -1.0 if node == source else 1.0 if node == sink else 0.0
        model.row(balance, balance, entries)


def solve(problem, integer):
    model = Model(integer)
    slots = range(len(problem["slots"]))
    contracts = problem.get("contracts", [])
    devices, power = [{} for _ in slots], [{} for _ in slots]
    below = {(c, t): [] for c in range(len(contracts)) for t in slots}
    for job in problem["jobs"]:

        def note(t, level, mode, column, job=job):
            taken = job["gang"] * (level["power"] + problem["slots"][t]["each"])
            devices[t][column] = job["gang"]
            power[t][column] = taken
            for c, contract in enumerate(contracts):
                count = job["home"][c] if mode == HOME else min(job["gang"], contract["devices"])
                sure = bound_to_stay(job, t)
                most = count if sure else min(count, places(problem, c, t))
                pinned = job["running"] and not job["interruptible"]
                if not integer and not pinned and most * level["power"] > contract["power"][t] + 1e-3:
                    model.highs.changeColBounds(column, 0.0, 0.0)
                whole = job["home"][c] if mode == HOME else job["gang"] * share(problem, c, t)
                below[c, t].append((column, level["power"], count, sure, whole))

        flow(model, problem, job, note)
    for t in slots:
        model.row(-highspy.kHighsInf, problem["devices"], devices[t])
        model.row(-highspy.kHighsInf, problem["slots"][t]["power"], power[t])
    for (c, t), entries in below.items():
        room = contracts[c]["power"][t]
        if not integer:
            model.row(-highspy.kHighsInf, room, {e[0]: e[1] * e[4] for e in entries})
            continue
        prices = sorted({0.0} | {e[1] for e in entries if not e[3]})
        chosen = [model.column(0.0) for _ in prices]
        model.row(1.0, 1.0, {z: 1.0 for z in chosen})
        for z, price in zip(chosen, prices):
            row = {
                column: count * (watts if sure else max(0.0, watts - price))
                for column, watts, count, sure, _ in entries
            }
            fixed = places(problem, c, t) * price
            most = fixed + sum(row.values())
            row[z] = most
            model.row(-highspy.kHighsInf, room - fixed + most, row)
    return model.optimum()


def main():
    directory = pathlib.Path(sys.argv[1])
    answers = {}
    for file in sorted(directory.glob("*.json")):
        problem = json.loads(file.read_text())
        answers[file.stem] = [solve(problem, True), solve(problem, False)]
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
